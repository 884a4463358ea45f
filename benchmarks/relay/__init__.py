"""Compares layers across nodes: ``python -m benchmarks.relay``."""
