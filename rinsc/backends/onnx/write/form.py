"""What an exported model is to be, beside its graph and its weights."""

from __future__ import annotations

from dataclasses import dataclass

from rinsc.backends.onnx.precision import Precision
from rinsc.backends.onnx.write.builder import FULL
from rinsc.backends.onnx.write.exits import Exit


@dataclass(frozen=True)
class Form:
    """How a graph is written.

    ``cached``: it continues sequences. ``fused``: with ONNX Runtime's own operators. ``gated``:
    rounds that may be left out stand in an ``If`` each. ``exit``: when the rounds of a dial end
    early.
    """

    cached: bool = False
    fused: bool = False
    gated: bool = False
    precision: Precision = FULL
    exit: Exit | None = None
