"""The cache in a graph: slots, where past keys and values come from and present ones go; packing,
which lets the fused attention take any mask.

ONNX Runtime's attention knows one number a row, how many tokens the cache holds, and expects the
tokens that count first. So a fused graph moves them there, and moves the states back before the
head. With 2 tokens in the cache and 3 new ones, of which the first is padding::

    attention_mask  1 1 | 0 1 1      input_ids   p a b
    cached          2                target      2 0 1      (where each new token goes)
                                     packed ids  a b p      (padding goes last, seen by none)

The next call overwrites what padding left in the cache, since it counts the mask's past part anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from rinsc.backends.onnx.contract import PAST, PRESENT, slot_name
from rinsc.backends.onnx.write.builder import BOOL, INT32, INT64, OpBuilder, make_value, shape_of
from rinsc.ops import Shape

Take: TypeAlias = Callable[[Shape], ir.Value]


@dataclass
class Slots:
    """Keys and values in the order in which visits make them.

    ``take`` gives the next past ones of a shape; what a layer made is added to ``present``.
    """

    take: Take
    present: list[ir.Value] = field(default_factory=list)


FIRST = slot_name(PAST, 0, 0)


def graph_slots(inputs: list[ir.Value], real: ir.DataType, first: ir.Value | None = None) -> Slots:
    """Slots whose past is an input of the graph, which is added to ``inputs``.

    ``first``, a value named `FIRST`, is that of the first slot, where something reads it already.

    Names are those that other runtimes look for: ``past_key_values.N.key``, slot N being the pair
    N. In a repeat whose rounds are an input a slot has a leading dimension, its rounds.
    """

    def take(shape: Shape) -> ir.Value:
        name = slot_name(PAST, *divmod(len(inputs), 2))
        if first is not None and name == FIRST:
            first.shape = ir.Shape(shape)
            inputs.append(first)
        else:
            inputs.append(make_value(name, shape, real))
        return inputs[-1]

    return Slots(take)


def name_present(slots: Slots) -> list[ir.Value]:
    """What is present, named as outputs of a graph."""
    for index, value in enumerate(slots.present):
        value.name = slot_name(PRESENT, *divmod(index, 2))
    return slots.present


def recorded(slots: Slots, into: list[ir.Value]) -> Slots:
    """Slots that read what ``slots`` reads, and keep it in ``into``."""

    def take(shape: Shape) -> ir.Value:
        into.append(slots.take(shape))
        return into[-1]

    return Slots(take)


def replayed(values: Iterator[ir.Value]) -> Slots:
    """Slots that read these values again."""
    return Slots(lambda shape: next(values))


LAST = np.iinfo(np.int64).max


@dataclass(frozen=True)
class Packing:
    """New tokens with those that count first in each row.

    ``ids`` (batch, seq); ``positions`` (batch, seq) of the packed tokens; ``last`` (batch,), int32,
    the position of the last of them, padding included; ``total``, int32, the mask's width.
    ``target`` (batch, seq) says where in its row each token went. ``grows``, whether what is
    present is longer than what is past: false where a cache has room to be appended to in place.
    """

    ids: ir.Value
    positions: ir.Value
    last: ir.Value
    total: ir.Value
    target: ir.Value
    grows: ir.Value

    def unpacked(self, op: OpBuilder, x: ir.Value) -> ir.Value:
        """States (batch, seq, width) in the order in which the tokens came."""
        with op.scope("unpacking"):
            index = op.Unsqueeze(self.target, op.ints(2), shape=("batch", "seq", 1))
            return op.GatherND(x, index, batch_dims=1, shape=shape_of(x), dtype=x.dtype)


def packed(op: OpBuilder, ids: ir.Value, mask: ir.Value, slot: ir.Value) -> Packing:
    """The packing of new ``ids`` (batch, seq) under ``mask`` (batch, past + seq).

    Runtimes that replay one recorded graph give a mask as wide as the cache's memory, with ones
    for the tokens so far, new ones included. Then the last columns are empty, and ``slot``, keys
    of the cache, is as wide as the mask.
    """
    with op.scope("packing"):
        seq = op.Shape(ids, start=1, end=2, shape=(1,), dtype=INT64)
        width = op.Shape(mask, start=1, end=2, shape=(1,), dtype=INT64)
        columns = op.Slice(mask, op.Neg(seq), op.ints(LAST), op.ints(1), shape=("batch", "seq"))
        room = op.Shape(slot, start=-2, end=-1, shape=(1,), dtype=INT64)
        is_empty = op.Equal(op.ReduceMax(columns, keepdims=0, shape=()), op.scalar(0), dtype=BOOL)
        is_wide = op.And(op.Equal(room, width, dtype=BOOL), is_empty)
        new = op.Add(columns, op.Cast(is_wide, to=INT64, dtype=INT64))
        counts = op.CumSum(new, op.scalar(1))
        column = ("batch", 1)
        added = op.ReduceSum(new, op.ints(1), keepdims=1, shape=column)
        cached = op.Sub(op.ReduceSum(mask, op.ints(1), keepdims=1, shape=column), added)
        length = op.Squeeze(seq, shape=())
        index = op.Range(op.scalar(0), length, op.scalar(1), shape=("seq",), dtype=INT64)
        is_new = op.Cast(new, to=BOOL, dtype=BOOL)
        behind = op.Sub(op.Add(added, index, shape=shape_of(new)), counts)
        target = op.Where(
            is_new, op.Sub(counts, op.scalar(1)), behind, shape=shape_of(new), dtype=INT64
        )
        newest = op.Max(op.Sub(added, op.scalar(1)), op.scalar(0))  # padding takes no position
        after = op.Sub(op.Add(cached, length), op.scalar(1))
        return Packing(
            ids=op.ScatterElements(ids, target, ids, axis=1),
            positions=op.Add(
                cached, op.Min(index, newest, shape=shape_of(new)), shape=shape_of(new)
            ),
            last=op.Cast(op.Squeeze(after, op.ints(1), shape=("batch",)), to=INT32, dtype=INT32),
            total=op.Cast(op.Squeeze(width, shape=()), to=INT32, dtype=INT32),
            target=target,
            grows=op.Greater(width, room, dtype=BOOL),
        )
