"""Backends: a small function an operation, plus blocks and loops. None imports another."""
