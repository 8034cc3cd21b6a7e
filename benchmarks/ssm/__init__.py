"""Benchmarks of the selective scan beside its peers."""
