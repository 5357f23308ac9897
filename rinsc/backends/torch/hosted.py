"""The ``forward`` of a module whose caller gives positions, mask and cache."""

from __future__ import annotations

from collections.abc import Mapping

from rinsc.backends.torch.blocks import BlockClass, own_lines
from rinsc.backends.torch.cached import embed_lines, rounds_lines
from rinsc.backends.torch.drawing import drawing_lines
from rinsc.backends.torch.statements import (
    call,
    definition,
    indented,
    statements,
    with_shape,
    within_width,
)
from rinsc.backends.torch.steps import StepWriter, takes_noise_seed
from rinsc.graph import BlockGraph
from rinsc.layers import Programs
from rinsc.ops import Linear, RotaryRows, TiedLinear
from rinsc.program import Program


def hosted_methods(
    graph: BlockGraph, programs: Programs, classes: Mapping[str, BlockClass]
) -> list[str]:
    """What a hosted model has beside its ``__init__`` and the start of its weights."""
    return [*_table_lines(programs), *hosted_forward(graph, programs, classes)]


def _table_lines(programs: Programs) -> list[str]:
    """How activations are kept, and the method that makes the tables which no file holds."""
    tables = [node for node in programs.embed.nodes if isinstance(node.op, RotaryRows)]
    return [
        '# "visit" or "round": activations of each are made again in the backward pass.',
        'checkpointing = "none"',
        "",
        "def reset_tables(self) -> None:",
        '    """Make the tables that are computed, not trained."""',
        *indented(own_lines(tables)),
        "",
    ]


def hosted_forward(
    graph: BlockGraph, programs: Programs, classes: Mapping[str, BlockClass]
) -> list[str]:
    """Token ids (batch, seq) at the positions given (batch or 1, seq), to logits.

    ``states`` goes as far as what the head's matrix is multiplied with. ``mask`` (batch, 1, seq,
    total) says which keys each token sees, none that it is causal; ``slots`` is where keys and
    values are kept; ``keep`` are the places in the sequence that logits are wanted of.
    """
    looped = any(graph.dials())
    parameters = [
        "input_ids: torch.Tensor",
        "position_ids: torch.Tensor",
        "mask: torch.Tensor | None = None",
        "slots: Slots | None = None",
        f"rounds: {'Rounds' if looped else 'int | None'} = None",
    ]
    parameters += ["noise_seed: int | None = None"] if takes_noise_seed(graph) else []
    parameters += ["keep: slice | torch.Tensor | None = None"]
    sides = tuple(name for name in programs.embed.outputs if name != "x")
    writer = StepWriter(graph, classes, sides, hosted=True)
    before, matrix = head_parts(programs.head)
    head, state = statements(before, {"x": "x"})
    project, results = statements(matrix, {"x": "x"})
    names = [parameter.partition(":")[0] for parameter in parameters]
    return [
        *definition("states", parameters, "torch.Tensor"),
        *indented(
            [
                *drawing_lines(graph, "input_ids.shape[0]", when="slots is None and "),
                *rounds_lines(looped),
                *(
                    f"by_{part} = self.training and slots is None "
                    f'and self.checkpointing == "{part}"'
                    for part in ("visit", "round")
                    if part == "visit" or any(graph.loops())
                ),
                *embed_lines(programs.embed),
                *within_width(writer.lines(graph)),
                "if keep is not None:",
                "    x = x[:, keep]",
                *head,
                *with_shape(f"return {state['x']}", before.outputs["x"]),
            ]
        ),
        "",
        *definition("forward", parameters, "torch.Tensor"),
        *indented(
            [
                *call("x = self.states", names),
                *project,
                *with_shape(f"return {results['logits']}", matrix.outputs["logits"]),
            ]
        ),
    ]


def head_parts(head: Program) -> tuple[Program, Program]:
    """What the head does up to its matrix, and the matrix; all of it where it ends otherwise."""
    last = head.nodes[-1]
    if not isinstance(last.op, Linear | TiedLinear) or last.output != head.outputs["logits"]:
        return Program(head.inputs, (), {"x": head.inputs["x"]}), head
    (state,) = last.inputs
    return (
        Program(head.inputs, head.nodes[:-1], {"x": state}),
        Program({"x": state}, (last,), head.outputs),
    )
