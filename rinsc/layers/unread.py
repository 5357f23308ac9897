"""Side values that no layer reads are not made."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from rinsc.ops.program import Program


def read_inputs(programs: Iterable[Program]) -> set[str]:
    """The names of the inputs that some program reads."""
    names: set[str] = set()
    for program in programs:
        values = {value for node in program.nodes for value in node.inputs}
        values.update(program.outputs.values())
        names.update(name for name, value in program.inputs.items() if value in values)
    return names


def without_inputs(program: Program, names: Iterable[str]) -> Program:
    """The program without inputs that it does not read."""
    unread = set(names)
    inputs = {name: value for name, value in program.inputs.items() if name not in unread}
    return replace(program, inputs=inputs)


def without_outputs(program: Program, names: Iterable[str]) -> Program:
    """The program without these outputs, nor what they alone are made of."""
    unread = set(names)
    outputs = {name: value for name, value in program.outputs.items() if name not in unread}
    needed, nodes = set(outputs.values()), []
    for node in reversed(program.nodes):
        if node.output in needed:
            needed.update(node.inputs)
            nodes.append(node)
    return Program(program.inputs, tuple(reversed(nodes)), outputs)
