"""The closed set of primitive operations: for each its shape rule, its parameters and its FLOPs.

Everything else (layers, costs, PyTorch, ONNX) is derived from these. A new operation is one class
here and one function in each backend.
"""

from rinsc.ops.attention import (
    Append,
    Attention,
    MergeHeads,
    PositionIds,
    Rope,
    SplitHeads,
    VisibleKeys,
)
from rinsc.ops.base import Causal, Dim, Init, Op, Param, Shape, Sizes, at_sizes
from rinsc.ops.elements import (
    Activation,
    Add,
    Concat,
    LayerNorm,
    MeanPool,
    Mul,
    Noise,
    RMSNorm,
    Scale,
    Shift,
    Sub,
    UnitRMSNorm,
    Weigh,
    ZerosLike,
)
from rinsc.ops.matrices import Linear, Project, TiedLinear
from rinsc.ops.tables import (
    Embedding,
    PositionRows,
    Positions,
    RotaryRows,
    RotaryTable,
    Row,
    Vector,
)

__all__ = [
    "Activation",
    "Add",
    "Append",
    "Attention",
    "Causal",
    "Concat",
    "Dim",
    "Embedding",
    "Init",
    "LayerNorm",
    "Linear",
    "MeanPool",
    "MergeHeads",
    "Mul",
    "Noise",
    "Op",
    "Param",
    "PositionIds",
    "PositionRows",
    "Positions",
    "Project",
    "RMSNorm",
    "Rope",
    "RotaryRows",
    "RotaryTable",
    "Row",
    "Scale",
    "Shape",
    "Shift",
    "Sizes",
    "SplitHeads",
    "Sub",
    "TiedLinear",
    "UnitRMSNorm",
    "Vector",
    "VisibleKeys",
    "Weigh",
    "ZerosLike",
    "at_sizes",
]
