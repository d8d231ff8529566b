"""Tests of `efd_pipelines.demo`."""
