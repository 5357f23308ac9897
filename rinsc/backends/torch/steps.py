"""The steps of a graph in an emitted ``forward``: visits, and loops with what their rounds do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from rinsc.backends.torch.blocks import BlockClass, own_lines, visit_text
from rinsc.backends.torch.statements import indented, statements
from rinsc.graph import BlockGraph, Loop, Visit
from rinsc.layers import trace_loop
from rinsc.ops import Noise
from rinsc.program import Program


def loop_modules(graph: BlockGraph) -> Iterator[str]:
    """The lines of ``__init__`` that make what repeats own."""
    for loop in {loop.name: loop for loop in graph.loops()}.values():
        programs = [_with_owner(p, loop) for p in trace_loop(graph.spec, loop).every]
        lines = [line for program in programs for line in own_lines(program.nodes)]
        if lines:
            yield f"self.loop_{loop.name} = nn.Module()"
            yield from lines


def loop_programs(graph: BlockGraph) -> list[Program]:
    """The programs of every loop."""
    return [program for loop in graph.loops() for program in trace_loop(graph.spec, loop).every]


def takes_noise_seed(graph: BlockGraph) -> bool:
    """Whether some repeat starts from noise."""
    return any(
        isinstance(node.op, Noise) for program in loop_programs(graph) for node in program.nodes
    )


@dataclass(frozen=True)
class StepWriter:
    """Writes the steps of one model; ``sides`` are the variables that its layers are given."""

    graph: BlockGraph
    classes: Mapping[str, BlockClass]
    sides: tuple[str, ...]

    def lines(self, graph: BlockGraph) -> Iterator[str]:
        for step in graph.steps():
            if isinstance(step, Visit):
                yield visit_text(step, ", ".join(["x", *self.classes[step.block].sides]))
            else:
                yield from self.loop(step)

    def loop(self, loop: Loop) -> Iterator[str]:
        name, options = loop.name.lower(), loop.options  # variables are lower case
        rounds = str(loop.rounds) if loop.fixed else f'counts["{loop.name}"]'
        programs = trace_loop(self.graph.spec, loop)
        if options.start != "carry" or options.inject is not None:
            yield f"entry_{name} = x"
        given = {"entry": f"entry_{name}", "seed": "noise_seed"}
        yield from self.program(programs.start, loop, given)
        by_count = options.adapter is not None and options.adapter.by == "count"
        given |= {"x": "x", "index": f"{rounds} - 1" if by_count else f"round_{name}"}
        body = [*self.program(programs.before, loop, given)]
        if programs.after is not None:
            body.append(f"given_{name} = x")
        body += self.lines(loop.body)
        body += self.program(programs.after, loop, {**given, "x": f"given_{name}", "y": "x"})
        if options.grad is not None:
            condition = f"round_{name} >= {rounds} - {options.grad}"
            body = [f"with gradients({condition}):", *indented(body)]
        counted = any(f"round_{name}" in line for line in body)
        yield f"for {f'round_{name}' if counted else '_'} in range({rounds}):"
        yield from indented(body)

    def program(self, program: Program | None, loop: Loop, given: dict[str, str]) -> list[str]:
        """Statements that leave the result of one of a loop's programs in ``x``."""
        if program is None:
            return []
        names = {name: given[name] for name in program.inputs}
        reserved = {*self.sides, *given.values()} - {"x"}
        lines, results = statements(_with_owner(program, loop), names, reserved)
        return lines if results["x"] == "x" else [*lines, f"x = {results['x']}"]


def _with_owner(program: Program, loop: Loop) -> Program:
    """The program with its operations called ``loop_A.adapter``, as the model finds them."""
    nodes = tuple(
        replace(node, name=f"loop_{loop.name}.{node.name}") if node.name else node
        for node in program.nodes
    )
    return replace(program, nodes=nodes)
