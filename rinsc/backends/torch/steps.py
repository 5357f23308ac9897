r"""The steps of a graph in an emitted ``forward``: visits, and loops with what their rounds do.

In goes a graph, out come the statements of ``forward`` between embedding and head:

    >>> import rinsc
    >>> from rinsc.backends.torch.blocks import block_classes
    >>> from rinsc.layers import trace_programs
    >>> def written(signature):
    ...     graph = rinsc.build_graph(rinsc.model_spec(signature, preset="tiny"))
    ...     classes = block_classes(graph, trace_programs(graph.spec))
    ...     print("\n".join(StepWriter(graph, classes, ("cos", "sin")).lines(graph)))

A visit is a call, a repeat a loop:

    >>> written("((A^2)B)^3")
    for _ in range(counts["AB"]):
        for _ in range(counts["A"]):
            x = self.A(x, cos, sin)
        x = self.B(x, cos, sin)

What a repeat does in each round stands inside its loop:

    >>> written("P R^8{inject=concat, grad=4}")
    x = self.P(x, cos, sin)
    entry_r = x
    for round_r in range(counts["R"]):
        with torch.set_grad_enabled(round_r >= counts["R"] - 4 and torch.is_grad_enabled()):
            x = self.loop_R.inject(torch.cat((x, entry_r), dim=-1))
            x = self.R(x, cos, sin)
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from rinsc.backends.torch.blocks import BlockClass, own_lines, visit_text
from rinsc.backends.torch.statements import indented, statements
from rinsc.graph import BlockGraph, Loop, Visit, verified
from rinsc.layers import trace_loop
from rinsc.ops import Noise
from rinsc.ops.program import Program


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
    loops = verified(graph).loops()
    return [program for loop in loops for program in trace_loop(graph.spec, loop).every]


def takes_noise_seed(graph: BlockGraph) -> bool:
    """Whether some repeat starts from noise."""
    return any(
        isinstance(node.op, Noise) for program in loop_programs(graph) for node in program.nodes
    )


Lines: TypeAlias = Iterator[str]
RECORD = "record(visited, x)"  # of the state in a hosted model


def slot_count(graph: BlockGraph, classes: Mapping[str, BlockClass]) -> str:
    """How many keys and values one pass of the graph caches, as an expression of ``counts``."""
    return " + ".join(slot_terms(graph, classes))


def slot_terms(graph: BlockGraph, classes: Mapping[str, BlockClass]) -> list[str]:
    """The terms of `slot_count`: one for all visits outside of repeats, one for each repeat."""
    fixed, terms = 0, []
    for step in graph.steps():
        if isinstance(step, Visit):
            fixed += step.each * classes[step.block].slots
            continue
        inner = slot_terms(step.body, classes)
        slots = inner[0] if len(inner) == 1 else f"({' + '.join(inner)})"
        rounds = str(step.rounds) if step.fixed else f'counts["{step.name}"]'
        terms.append(slots if step.options.cache != "own" else f"{rounds} * {slots}")
    return [str(fixed), *terms] if fixed or not terms else terms


@dataclass(frozen=True)
class StepWriter:
    """Writes the steps of one model; ``sides`` are the variables that its layers are given."""

    graph: BlockGraph
    classes: Mapping[str, BlockClass]
    sides: tuple[str, ...]
    cached: bool = False
    hosted: bool = False
    recomputing: bool = False  # whether activations may be made again in the backward pass

    def lines(self, graph: BlockGraph, past: str = "past", present: str = "present") -> Lines:
        """Statements from ``x`` to ``x``; ``past`` and ``present`` hold the slots of a cache."""
        entries = _entries(graph)
        yield from entries.get(0, ())
        for index, step in enumerate(graph.steps(), 1):
            if isinstance(step, Visit):
                slots = [past, present] if self.cached else []
                sides = self.classes[step.block].sides
                host = self.classes[step.block].host
                yield visit_text(step, ", ".join(["x", *sides, *slots, *host]), self.recomputing)
                if self.hosted:
                    yield RECORD
            else:
                yield from self.loop(step, past, present, outermost=graph is self.graph)
            yield from entries.get(index, ())

    def loop(self, loop: Loop, past: str, present: str, *, outermost: bool) -> Lines:
        name, options = loop.name.lower(), loop.options  # variables are lower case
        rounds = str(loop.rounds) if loop.fixed else f'counts["{loop.name}"]'
        programs = trace_loop(self.graph.spec, loop, cached=self.cached or self.hosted)
        names = {"entry": f"entry_{name}", "seed": "noise_seed", "position_ids": "position_ids"}
        yield from self.program(programs.start, loop, names)
        by_count = options.adapter is not None and options.adapter.by == "count"
        names |= {"x": "x", "index": f"{rounds} - 1" if by_count else f"round_{name}"}
        body = [*self.program(programs.before, loop, names)]
        if programs.after is not None:
            body.append(f"given_{name} = x")
        shares = options.cache != "own"
        if shares and self.hosted:
            yield from _when_kept(f'slots.enter("{options.cache}")')
        if shares and self.cached:
            slots = slot_count(loop.body, self.classes)
            yield f"shared_{name} = list(islice({past}, {slots}))"
            body += [f"past_{name}, made_{name} = iter(shared_{name}), []"]
            body += self.lines(loop.body, f"past_{name}", f"made_{name}")
            if options.cache == "first":
                yield f"kept_{name}: list[torch.Tensor] = []"
                body += [f"kept_{name} = kept_{name} or made_{name}"]
        else:
            body += self.lines(loop.body, past, present)
        body += self.program(programs.after, loop, {**names, "x": f"given_{name}", "y": "x"})
        if self.recomputing and outermost:
            method, call = _as_function(name, body)
            yield from method
            body = [call]
        if shares and self.hosted:
            body = [*_when_kept("slots.again()"), *body]
        if options.grad is not None:
            has_gradient = f"round_{name} >= {rounds} - {options.grad} and torch.is_grad_enabled()"
            body = [f"with torch.set_grad_enabled({has_gradient}):", *indented(body)]
        counted = any(re.search(rf"\bround_{name}\b", line) for line in body)
        yield f"for {f'round_{name}' if counted else '_'} in range({rounds}):"
        yield from indented(body)
        if shares and self.hosted:
            yield from _when_kept("slots.leave()")
        if shares and self.cached:
            slots_kept = f"kept_{name}" if options.cache == "first" else f"made_{name}"
            yield f"{present} += {slots_kept}"

    def program(self, program: Program | None, loop: Loop, variables: dict[str, str]) -> list[str]:
        """Statements that leave the result of one of a loop's programs in ``x``."""
        if program is None:
            return []
        names = {name: variables[name] for name in program.inputs}
        reserved = {*self.sides, *variables.values()} - {"x"}
        lines, results = statements(_with_owner(program, loop), names, reserved)
        return lines if results["x"] == "x" else [*lines, f"x = {results['x']}"]


def _entries(graph: BlockGraph) -> dict[int, list[str]]:
    """By node, the lines that keep what it made for the loops that it is injected into."""
    entries: dict[int, list[str]] = {}
    for step, _, source in graph.wired():
        if source is not None and isinstance(step, Loop):
            entries.setdefault(source, []).append(f"entry_{step.name.lower()} = x")
    return entries


def _when_kept(line: str) -> list[str]:
    """The line, for a pass of a hosted model that keeps a cache."""
    return ["if slots is not None:", *indented([line])]


def _as_function(name: str, body: list[str]) -> tuple[list[str], str]:
    """A round as a function, whose work can be repeated, and the call of it.

    It is given what later rounds change, as the work is repeated after the last of them.
    """
    read = set(re.findall(r"\w+", " ".join(line.partition("#")[0] for line in body)))
    arguments = [variable for variable in (f"entry_{name}", f"round_{name}") if variable in read]
    kinds = {f"round_{name}": "int"}
    parameters = [
        f"{variable}: {kinds.get(variable, 'torch.Tensor')}" for variable in ("x", *arguments)
    ]
    function = f"round_of_{name}"
    start = f"def {function}({', '.join(parameters)}) -> torch.Tensor:"
    call = f"x = recomputed(by_round, {', '.join([function, 'x', *arguments])})"
    *before, last = body
    end = [f"return {last[4:]}"] if last.startswith("x = ") else [last, "return x"]
    return ["", start, *indented([*before, *end]), ""], call


def _with_owner(program: Program, loop: Loop) -> Program:
    """The program with its operations called ``loop_A.adapter``, as the model finds them."""
    nodes = tuple(
        replace(node, name=f"loop_{loop.name}.{node.name}") if node.name else node
        for node in program.nodes
    )
    return replace(program, nodes=nodes)
