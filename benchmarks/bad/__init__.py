"""Benchmarks of block speculation (BAD)."""
