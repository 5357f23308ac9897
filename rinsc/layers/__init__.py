"""Layer kinds: short compositions of primitive operations."""

from rinsc.layers.kind import LayerKind, Programs, layer_kind, trace_programs

__all__ = ["LayerKind", "Programs", "layer_kind", "trace_programs"]
