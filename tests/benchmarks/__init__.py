"""Benchmarks that anyone can run; no timed tests."""
