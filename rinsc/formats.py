"""Number formats, one row each: what a number takes, and what every library calls it.

A new format is a row of `FORMATS`. What differs between formats besides (how a weight is rounded,
which operator multiplies it) stands where it is done, under the format's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

# What is computed with: "floats", weights and activations alike; "dynamic", activations too are
# brought to few bits, when they are known; "weights", these alone are in few bits, in blocks with a
# scale; "cast", these alone are small floats, without scales, and brought to fp32 before products.
Arithmetic: TypeAlias = Literal["floats", "dynamic", "weights", "cast"]

FloatType: TypeAlias = Literal["fp32", "fp16", "bf16"]
TrainingPrecision: TypeAlias = Literal["fp32", "bf16"]


@dataclass(frozen=True)
class NumberFormat:
    """How a matrix can be stored, and what its products are computed in.

    ``bits`` are those of one number, without the scales that a block of them has. ``torch`` and
    ``onnx`` are the names of the types that hold it there, and ``onnx_number`` is its type's in
    ``onnx.TensorProto``, for readers without that library. One that ``trains`` is a precision of
    training; blocks can be ``kept`` in it where the rest of a model is in fewer bits.
    """

    name: str
    bits: int
    arithmetic: Arithmetic
    torch: str
    onnx: str
    onnx_number: int
    trains: bool = False
    kept: bool = False

    @property
    def bytes(self) -> float:
        """Bytes of one number."""
        return self.bits / 8


FORMATS: Mapping[str, NumberFormat] = {
    row.name: row
    for row in (
        NumberFormat("fp32", 32, "floats", "float32", "FLOAT", 1, trains=True, kept=True),
        NumberFormat("fp16", 16, "floats", "float16", "FLOAT16", 10, kept=True),
        NumberFormat("bf16", 16, "floats", "bfloat16", "BFLOAT16", 16, trains=True),
        NumberFormat("int8-dynamic", 8, "dynamic", "int8", "INT8", 3),
        NumberFormat("int8", 8, "weights", "uint8", "UINT8", 2),
        NumberFormat("int4", 4, "weights", "uint8", "UINT4", 21),
        NumberFormat("fp8", 8, "cast", "float8_e4m3fn", "FLOAT8E4M3FN", 17),
    )
}


def names(
    *, arithmetic: Arithmetic | None = None, trains: bool = False, kept: bool = False
) -> tuple[str, ...]:
    """The names of the formats that are what is asked for, in the order of the table.

    >>> names(arithmetic="floats")
    ('fp32', 'fp16', 'bf16')
    """
    return tuple(
        row.name
        for row in FORMATS.values()
        if arithmetic in (None, row.arithmetic) and row.trains >= trains and row.kept >= kept
    )
