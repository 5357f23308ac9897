"""Layer kinds: short compositions of primitive operations."""

from rinsc.layers.kind import LayerKind, Programs, layer_kind, trace_programs
from rinsc.layers.weights import layer_prefixes, weight_shapes

__all__ = [
    "LayerKind",
    "Programs",
    "layer_kind",
    "layer_prefixes",
    "trace_programs",
    "weight_shapes",
]
