"""Tests: `unit/` mirrors the packages and needs nothing; `integration/` and the others use real servers."""
