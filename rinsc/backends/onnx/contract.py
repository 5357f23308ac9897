"""What an exported model and its runner share: names of files, metadata, inputs and outputs, and
the operators.

What `write` puts into a file under one of these names, `run` finds there. Nothing else may spell
them, so that a new name is one line here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from rinsc.formats import FORMATS

if TYPE_CHECKING:
    from rinsc.graph import BlockGraph

MODEL_FILE = "model.onnx"  # in a model folder
DATA_FILE = f"{MODEL_FILE}.data"  # the weights, in pages that a runtime can map

IDS, MASK, LOGITS = "input_ids", "attention_mask", "logits"
PAST, PRESENT = "past_key_values.", "present."  # then the number of a slot, and key or value
USED = "rounds_used_"  # outputs of models whose rounds may end early, by repeat
BFLOAT16 = FORMATS["bf16"].onnx_number  # numpy has none
# Types of weights that a session brings to fp32 once, where it has no kernels for them.
FOLDED = frozenset(
    row.onnx_number
    for row in FORMATS.values()
    if row.arithmetic in ("floats", "cast") and row.bits < FORMATS["fp32"].bits
)


class Key(StrEnum):
    """What a model's metadata hold; every value is a text."""

    VERSION = "rinsc.version"  # of rinsc, when it was written
    SIGNATURE = "rinsc.signature"
    SPEC = "rinsc.spec"  # as TOML
    FINGERPRINT = "rinsc.fingerprint"
    FORM = "rinsc.form"  # fixed, dynamic or gated
    PRECISION = "rinsc.precision"  # as `parse_precision` reads it
    EXIT = "rinsc.exit"  # as `parse_exit` reads it, or nothing
    OPERATORS = "rinsc.operators"  # fused or standard
    ROUNDS = "rinsc.rounds"  # JSON: by repeat, those written
    CACHE = "rinsc.cache"  # JSON: whether it continues sequences
    TRAINED = "rinsc.trained"  # JSON: the most rounds in training, by repeat
    DATA = "rinsc.data"  # JSON: the file with the weights, and its digest
    TOKENIZER = "rinsc.tokenizer"  # the digest of the tokenizer.json beside it


def slot_name(prefix: str, slot: int | str, which: int) -> str:
    """Keys (0) or values (1) of a slot, in `PAST` or `PRESENT`: ``past_key_values.0.key``."""
    return f"{prefix}{slot}.{('key', 'value')[which]}"


def present_of(past: str) -> str:
    """The output that takes the place of an input."""
    return PRESENT + past.removeprefix(PAST)


def rounds_of(name: str) -> str:
    """A repeat's rounds: the input that sets them, and the leading dimension of its slots."""
    return f"rounds_{name}"


def dial_name(graph: BlockGraph, name: str, *, gated: bool) -> str:
    """The input that sets a repeat's rounds: ``rounds_A``; of a gated model ``depth``, or
    ``depth_A`` where there are several repeats."""
    if not gated:
        return rounds_of(name)
    return "depth" if len(list(graph.dials())) == 1 else f"depth_{name}"


def tower_port(tower: str, name: str) -> str:
    """The input or output of a tower, where there are several: ``image_patches``."""
    return f"{tower}_{name}"


# The writer adds no other operators, and no others are run.
RUNTIME = "com.microsoft"  # the domain of ONNX Runtime's own operators
STANDARD = ("", "ai.onnx")  # the domain of ONNX's, by its two names
RUNTIME_OPERATORS = frozenset(
    {
        "DynamicQuantizeMatMul",
        "GatherBlockQuantized",
        "GroupQueryAttention",
        "MatMulNBits",
        "QuickGelu",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
    }
)
STANDARD_OPERATORS = frozenset(
    {
        *("Abs", "Add", "And", "Attention", "Cast", "Clip", "Concat", "Conv", "Cos", "CumSum"),
        *("Div", "Equal", "Exp", "Expand", "Gather", "GatherND", "Gelu", "Gemm", "Greater"),
        *("GreaterOrEqual", "Identity", "If", "LayerNormalization", "LessOrEqual", "Log"),
        *("LogSoftmax", "Loop", "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Or", "Pad"),
        *(
            "RMSNormalization",
            "Range",
            "ReduceL2",
            "ReduceMax",
            "ReduceMean",
            "ReduceSum",
            "Relu",
            "Reshape",
        ),
        *("RotaryEmbedding", "Scan", "ScatterElements", "Shape", "Sigmoid", "Sin", "Slice", "Sqrt"),
        *("Softmax", "Squeeze", "Sub", "Tanh", "TopK", "Transpose", "Unsqueeze", "Where"),
    }
)


def is_ours(domain: str, name: str) -> bool:
    """Whether exported models have the operator."""
    if domain == RUNTIME:
        return name in RUNTIME_OPERATORS
    return domain in STANDARD and name in STANDARD_OPERATORS
