"""What layers add to the loss of training: where it is kept, and layers without it."""

from __future__ import annotations

from dataclasses import replace

from rinsc.ops import AuxiliaryLoss
from rinsc.ops.program import Node, Program, Value

LOSSES = "losses"


def has_losses(program: Program) -> bool:
    """Whether the program adds to the loss."""
    return any(isinstance(node.op, AuxiliaryLoss) for node in program.nodes)


def with_losses(program: Program) -> Program:
    """The program, given ``losses`` to keep it in where it adds to the loss.

    >>> from rinsc.ops import AuxiliaryLoss, Linear, Softmax, TokenMean
    >>> from rinsc.ops.program import trace
    >>> def layer(b, inputs):
    ...     gates = b(Softmax(), b(Linear(4), inputs["x"], name="router"))
    ...     return {"x": b(AuxiliaryLoss(0.01), inputs["x"], b(TokenMean(), gates))}
    >>> program = trace({"x": ("batch", "seq", 8)}, layer)
    >>> print(*with_losses(program).inputs)
    x losses
    >>> without_losses(program).nodes
    ()
    """
    if not has_losses(program):
        return program
    values = [*program.inputs.values(), *(node.output for node in program.nodes)]
    losses = Value(1 + max(value.index for value in values), ())
    nodes = tuple(
        replace(node, inputs=(*node.inputs, losses)) if isinstance(node.op, AuxiliaryLoss) else node
        for node in program.nodes
    )
    return Program({**program.inputs, LOSSES: losses}, nodes, program.outputs)


def without_losses(program: Program) -> Program:
    """The program without what it adds to the loss, nor what nothing else reads."""
    if not has_losses(program):
        return program
    passed: dict[Value, Value] = {}
    nodes: list[Node] = []
    for node in program.nodes:
        inputs = tuple(passed.get(value, value) for value in node.inputs)
        if isinstance(node.op, AuxiliaryLoss):
            passed[node.output] = inputs[0]
        else:
            nodes.append(replace(node, inputs=inputs))
    outputs = {name: passed.get(value, value) for name, value in program.outputs.items()}
    read = set(outputs.values())
    needed: list[Node] = []
    for node in reversed(nodes):
        if node.output in read:
            read.update(node.inputs)
            needed.append(node)
    return Program(program.inputs, tuple(reversed(needed)), outputs)
