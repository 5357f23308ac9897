"""The slots of a cache in a graph: where past keys and values come from, where present ones go."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx_ir as ir

from rinsc.backends.onnx.contract import PAST, PRESENT
from rinsc.backends.onnx.write.builder import make_value
from rinsc.ops import Shape

Take: TypeAlias = Callable[[Shape], ir.Value]


@dataclass
class Slots:
    """Keys and values in the order in which visits make them.

    ``take`` gives the next past ones of a shape; what a layer made is added to ``present``.
    """

    take: Take
    present: list[ir.Value] = field(default_factory=list)


FIRST = f"{PAST}0.key"


def graph_slots(inputs: list[ir.Value], real: ir.DataType, first: ir.Value | None = None) -> Slots:
    """Slots whose past is an input of the graph, which is added to ``inputs``.

    ``first``, a value named `FIRST`, is that of the first slot, where something reads it already.

    Names are those that other runtimes look for: ``past_key_values.N.key``, slot N being the pair
    N. In a repeat whose rounds are an input a slot has a leading dimension, its rounds.
    """

    def take(shape: Shape) -> ir.Value:
        number, which = divmod(len(inputs), 2)
        name = f"{PAST}{number}.{('key', 'value')[which]}"
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
        value.name = f"{PRESENT}{index // 2}.{('key', 'value')[index % 2]}"
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
