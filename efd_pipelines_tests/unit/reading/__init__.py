"""Tests of what reads the archive for people."""
