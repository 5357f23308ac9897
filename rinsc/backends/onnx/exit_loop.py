"""A loop that ends as soon as a further round changes next to nothing, as ONNX nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from rinsc.backends.onnx.builder import BOOL, FLOAT, INT64, make_value, shape_of
from rinsc.backends.onnx.cache import Slots, recorded
from rinsc.backends.onnx.exits import Exit, distribution_change, state_change
from rinsc.graph import Loop, Visit

if TYPE_CHECKING:
    from rinsc.backends.onnx.walk import Walk


def exit_loop(
    walk: Walk, loop: Loop, entry: ir.Value, slots: Slots, rest: Sequence[Visit | Loop], when: Exit
) -> tuple[ir.Value, ir.Value, Slots]:
    """The state after the loop, the rounds that it ran, and the slots of what follows.

    ``rest`` is what follows, which has to be run to know the distribution that a round leads to.
    With a cache all rounds share one slot, whose content is that of the last one run.
    """
    op = walk.op
    watches_output = when.measure == "kl"
    with op.scope(f"loop_{loop.name}"):
        x = walk.start(loop, entry)
        trip = make_value(op.scoped("round"), (), INT64)
        go_on = make_value(op.scoped("go_on"), (), BOOL)
        state = make_value(op.scoped("x"), shape_of(x), op.real)
        count = make_value(op.scoped("count"), (), INT64)
        past: list[ir.Value] = []
        later: list[ir.Value] = []
        inner = recorded(slots, past)
        with op.body() as nodes:
            made = walk.round(loop, entry, walk.adapter_index(loop, trip), state, inner)
            done = op.Add(trip, op.scalar(1), name=op.scoped("done"))
            carried = [state]
            results = [made]
            if watches_output:
                logits = walk.logits(rest, made, recorded(slots, later))
                before = make_value(op.scoped("before"), shape_of(logits), FLOAT)
                change = distribution_change(op, before, logits)
                carried.append(before)
                results.append(logits)
            else:
                change = state_change(op, state, made)
            limit = op.constant(f"exit/{when.text}", np.array(when.threshold, np.float32))
            changes = op.GreaterOrEqual(change, limit, shape=(), dtype=BOOL)
            first = op.Equal(trip, op.scalar(0), shape=(), dtype=BOOL)
            still = op.Or(first, changes, name=op.scoped("still"))
        slots_before = [
            make_value(op.scoped(f"present_{index}"), shape_of(value), op.real)
            for index, value in enumerate(past)
        ]
        body = ir.Graph(
            [trip, go_on, count, *carried, *slots_before],
            [still, done, *results, *inner.present],
            nodes=nodes,
            name=op.scoped("body"),
        )
        starts = [op.scalar(0), x, *([_nothing(walk, x, results[1])] if watches_output else [])]
        shapes = [shape_of(value) for value in (done, *results, *inner.present)]
        dtypes = [INT64, op.real, *[FLOAT] * (len(results) - 1), *[op.real] * len(past)]
        rounds = walk.rounds[loop.name]
        used, x, *others = op.many(
            "Loop", [rounds, None, *starts, *past], {"body": body}, shapes, dtypes
        )
        slots.present += others[len(results) - 1 :]
    if not watches_output:
        return x, used, slots
    again = iter(later)
    return x, used, Slots(lambda shape: next(again), slots.present)


def _nothing(walk: Walk, x: ir.Value, logits: ir.Value) -> ir.Value:
    """Logits before the first round, which nothing looks at."""
    op, shape = walk.op, shape_of(logits)
    sizes = op.Shape(x, start=0, end=2, shape=(2,), dtype=INT64)
    wanted = op.Concat(sizes, op.ints(shape[-1]), axis=0, shape=(3,))
    zero = op.constant("no_logits", np.array(0, np.float32))
    return op.Expand(zero, wanted, shape=shape)
