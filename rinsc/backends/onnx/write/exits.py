"""Early exit: a repeat stops inside the graph once a further round changes next to nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
import onnx_ir as ir

from rinsc.backends.onnx.write.builder import FLOAT, OpBuilder, shape_of
from rinsc.errors import LoweringError, UsageError, did_you_mean
from rinsc.graph import BlockGraph
from rinsc.scalars import real

Measure: TypeAlias = Literal["kl", "state"]
TINY = 1e-20  # keeps the change of a state that is zero finite


@dataclass(frozen=True)
class Exit:
    """When a repeat stops before its last round; the first round always runs.

    It stops after a round that, compared with the one before, changed by less than ``threshold``:
    ``kl``, the Kullback-Leibler divergence in nats of the distributions of the next token;
    ``state``, the norm of the state's change over the norm of the state. Of all tokens of a batch
    the one that changed most decides, padding and sequences that have ended among them.
    """

    measure: Measure
    threshold: float

    def __post_init__(self) -> None:
        if self.measure not in get_args(Measure):
            hint = did_you_mean(str(self.measure), get_args(Measure))
            message = f"'{self.measure}' is not a measure of change"
            raise UsageError("exit", message, hint=hint)
        limits, threshold = np.finfo(np.float32), real(self.threshold)
        # False for NaN.
        if threshold is None or not float(limits.tiny) <= threshold <= float(limits.max):
            message = f"a threshold is a number above 0 that float32 holds, not {self.threshold}"
            raise UsageError("exit", message, hint="write kl:5e-4 or state:0.01")
        object.__setattr__(self, "threshold", float(threshold))

    @property
    def text(self) -> str:
        """What `parse_exit` reads: ``kl:0.0005``."""
        return f"{self.measure}:{self.threshold!r}"


def parse_exit(text: str) -> Exit:
    """The exit that ``kl:5e-4`` or ``state:0.01`` names. Raises `UsageError`."""
    measure, _, number = text.partition(":")
    try:
        threshold = float(number)
    except ValueError:
        message = f"'{text}' does not say when to stop"
        raise UsageError("exit", message, hint="write kl:5e-4 or state:0.01") from None
    return Exit(measure, threshold)  # type: ignore[arg-type]  # checked there


def check_exit(graph: BlockGraph, when: Exit, *, cached: bool, dialled: bool) -> None:
    """Raise `LoweringError` where a model of this graph cannot stop early."""
    outer = [loop for loop in graph.steps() if loop in list(graph.dials())]
    if not dialled or not outer:
        message = "only rounds that are set at run time can end early"
        hint = "ask for --rounds dynamic (rounds='dynamic') of a signature with a repeat"
        raise _refused(message, hint)
    if when.measure == "kl" and len(outer) > 1:
        message = "'kl' watches one repeat, and this signature has several in a row"
        raise _refused(message, "watch the state instead: state:0.01")
    if cached and any(loop.options.cache != "last" for loop in outer):
        message = "rounds that are left out would leave holes in their cache slots"
        hint = (
            "leave the cache out, or train a signature whose repeat shares one slot: A^3{kv=last}"
        )
        raise _refused(message, hint)


def state_change(op: OpBuilder, before: ir.Value, after: ir.Value) -> ir.Value:
    """Norm of the change over norm of the state, of the token (batch, seq) with the largest."""
    batch, seq, _ = shape_of(after)

    def norm(x: ir.Value) -> ir.Value:
        return op.ReduceL2(_float(op, x), op.ints(-1), keepdims=0, shape=(batch, seq), dtype=FLOAT)

    floor = op.constant("tiny", np.array(TINY, np.float32))
    return _largest(op, op.Div(norm(op.Sub(after, before)), op.Max(norm(after), floor)))


def distribution_change(op: OpBuilder, before: ir.Value, after: ir.Value) -> ir.Value:
    """KL(before ‖ after) in nats, of logits (batch, seq, vocab): that of the token with most."""
    batch, seq, _ = shape_of(after)
    old, new = (op.LogSoftmax(logits, axis=-1) for logits in (before, after))
    terms = op.Mul(op.Exp(old), op.Sub(old, new))
    return _largest(op, op.ReduceSum(terms, op.ints(-1), keepdims=0, shape=(batch, seq)))


def _largest(op: OpBuilder, changes: ir.Value) -> ir.Value:
    return op.ReduceMax(changes, keepdims=0, shape=(), dtype=FLOAT)


def _float(op: OpBuilder, x: ir.Value) -> ir.Value:
    return x if op.real == FLOAT else op.Cast(x, to=FLOAT, dtype=FLOAT)


def _refused(message: str, hint: str) -> LoweringError:
    return LoweringError("no-early-exit", message, hint=hint)
