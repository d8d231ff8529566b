"""Faults: processes that are killed, and services that stop, in the middle of the work."""
