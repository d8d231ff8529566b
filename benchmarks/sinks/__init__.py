"""What benchmarks of sinks share: a site of real servers; and runs that take minutes."""
