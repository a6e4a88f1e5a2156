"""Measurements anyone can run: `python -m benchmarks.cache`. Results are kept in results/."""
