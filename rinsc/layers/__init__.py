"""Layer kinds: short compositions of primitive operations."""

from rinsc.layers.joins import join_shapes, trace_join
from rinsc.layers.kind import (
    LayerKind,
    ModelInput,
    fixed_length,
    layer_kind,
    model_input,
    model_output,
    register_kind,
    require_language_model,
)
from rinsc.layers.loops import LoopPrograms, loop_prefix, trace_loop
from rinsc.layers.tracing import Programs, trace_programs
from rinsc.layers.weight_names import BlockWeights, block_weights, weight_shapes, weights

__all__ = [
    "BlockWeights",
    "LayerKind",
    "LoopPrograms",
    "ModelInput",
    "Programs",
    "block_weights",
    "fixed_length",
    "join_shapes",
    "layer_kind",
    "loop_prefix",
    "model_input",
    "model_output",
    "register_kind",
    "require_language_model",
    "trace_join",
    "trace_loop",
    "trace_programs",
    "weight_shapes",
    "weights",
]
