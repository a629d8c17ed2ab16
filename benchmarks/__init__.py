"""Benchmarks: measured in one run, beside what others do; results are written to docs/, not typed."""
