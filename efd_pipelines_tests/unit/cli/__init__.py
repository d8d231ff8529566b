"""Tests of `efd_pipelines.cli`."""
