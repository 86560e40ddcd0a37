"""Benchmarks: one command each, ``python -m benchmarks NAME``, results as JSON beside the code."""
