"""Backends: one small function an operation, plus blocks and loops. They never import each other."""
