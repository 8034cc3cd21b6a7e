"""Measurements whose results are committed beside them: run with `python -m benchmarks.NAME` from the repository."""
