"""Tests of what a notebook imports."""
