"""The operators of exported models: `OpBuilder` adds no other, and no other is run."""

from __future__ import annotations

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
        *("Abs", "Add", "And", "Attention", "Cast", "Clip", "Concat", "Cos", "CumSum", "Div"),
        *("Equal", "Exp", "Expand", "Gather", "GatherND", "Gelu", "Gemm", "Greater"),
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
        *("Squeeze", "Sub", "Tanh", "Transpose", "Unsqueeze", "Where"),
    }
)


def is_ours(domain: str, name: str) -> bool:
    """Whether exported models have the operator."""
    if domain == RUNTIME:
        return name in RUNTIME_OPERATORS
    return domain in STANDARD and name in STANDARD_OPERATORS
