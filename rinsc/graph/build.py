"""Signature to block graph, as written, and the ordered passes that every graph goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import overload

from rinsc.errors import plural
from rinsc.graph.nodes import Block, BlockGraph, Loop, Visit, chain
from rinsc.graph.passes import fold_runs, number_loops
from rinsc.graph.towers_graph import TowersGraph, joined
from rinsc.graph.verify import Rule, keeps_the_schedule, loop_names_are_unique, verified, verify
from rinsc.spec import ModelSpec, TowersSpec
from rinsc.spec.model import dimensions, require_spec
from rinsc.syntax.options import largest_bounded_draw
from rinsc.syntax.settings import RepeatOptions, repeat_options, visit_options
from rinsc.syntax.tree import BlockRef, Node, Repeat


@dataclass(frozen=True)
class Pass:
    """A rewrite of the graph, and the rules that hold from then on.

    None may change what is executed at the rounds written; one that ``adds_dials`` may make new
    loops, the others leave what is executed at any rounds alone.
    """

    run: Callable[[BlockGraph], BlockGraph]
    establishes: tuple[Rule, ...] = ()
    adds_dials: bool = False


PASSES: tuple[Pass, ...] = (
    Pass(fold_runs, adds_dials=True),
    Pass(number_loops, (loop_names_are_unique,)),
)


@overload
def build_graph(spec: ModelSpec) -> BlockGraph: ...


@overload
def build_graph(spec: TowersSpec) -> TowersGraph: ...


@overload
def build_graph(spec: ModelSpec | TowersSpec) -> BlockGraph | TowersGraph: ...


def build_graph(spec: ModelSpec | TowersSpec) -> BlockGraph | TowersGraph:
    """The verified block graph of a spec, after all passes; of towers, that of each and of all.

    Raises `SpecError` without a spec.

    >>> from rinsc import model_spec
    >>> graph = build_graph(model_spec("(A^3)B", preset="tiny"))
    >>> [(loop.name, loop.rounds) for loop in graph.loops()]
    [('A', 3)]
    """
    if isinstance(spec, TowersSpec):
        return joined(spec, {name: _built(tower) for name, tower in spec.towers.items()})
    return _built(require_spec(spec))


def _built(spec: ModelSpec) -> BlockGraph:
    blocks = {
        name: Block(name, layers, spec.block_kinds[name], spec.block_options[name].tie)
        for name, layers in spec.parts.items()
    }
    empty = BlockGraph(spec, blocks, chain(()))
    graph = empty.with_steps(_steps(empty, spec.normal.tree.body))
    verify(graph, after="build")
    return run_passes(graph, PASSES)


def require_graph(model: ModelSpec | BlockGraph) -> BlockGraph:
    """The graph of a spec, or the graph itself, verified: what every backend starts from.

    Raises `SpecError` for what is neither, and `GraphError` for a graph that no backend can run.
    """
    if isinstance(model, ModelSpec):
        return _built(model)
    if isinstance(model, BlockGraph | TowersGraph):
        return verified(model)  # which refuses towers
    return _built(require_spec(model))


def run_passes(graph: BlockGraph, passes: Iterable[Pass]) -> BlockGraph:
    """Run passes in order, with the verifier after each, and what comes out checked as a whole."""
    rules: tuple[Rule, ...] = ()
    for next_pass in passes:
        unchanged = keeps_the_schedule(graph, at_any_rounds=not next_pass.adds_dials)
        graph = next_pass.run(graph)
        rules += next_pass.establishes
        verify(graph, after=next_pass.run.__name__, rules=(*rules, unchanged))
    return verified(graph)


def _steps(empty: BlockGraph, node: Node) -> list[Visit | Loop]:
    """The steps that a node of the tree stands for."""
    if isinstance(node, BlockRef):
        own = visit_options(node.options)
        return [Visit(node.letter, own.each, own.reverse)]
    if isinstance(node, Repeat):
        if not isinstance(node.count, int):
            raise TypeError(f"exponent '{node.count}' is not bound")  # a spec's signature is bound
        body = empty.with_steps(_steps(empty, node.body))
        name = "".join(dict.fromkeys(visit.block for visit in body.visits()))
        options = repeat_options(node.options)
        return [Loop(name, body, node.count, options, _adapters(options, node.count))]
    return [step for item in node.items for step in _steps(empty, item)]


def _adapters(options: RepeatOptions, rounds: int) -> int:
    """One for each round that is written or, where that is bounded, can be drawn."""
    if options.adapter is None:
        return 0
    drawn = 1 if options.sample is None else largest_bounded_draw(options.sample)
    return max(rounds, drawn)


MOST = 8  # differences that are told


def model_differences(left: ModelSpec, right: ModelSpec) -> list[str]:
    """What differs from ``left`` to ``right``: blocks, then dimensions, then the schedule."""
    graphs = build_graph(left), build_graph(right)
    lines = [*_blocks(*graphs), *_dimensions(left, right)]
    if not lines:
        same = graphs[0].visit_counts() == graphs[1].visit_counts()
        what = "options of its repeats differ" if same else "its blocks are visited in another way"
        lines = [f"{what}: '{right.text}', not '{left.text}'"]
    more = [f"and {len(lines) - MOST} more"] if len(lines) > MOST else []
    return [*lines[:MOST], *more]


def _blocks(left: BlockGraph, right: BlockGraph) -> list[str]:
    lines = []
    for name in sorted(left.blocks.keys() | right.blocks.keys()):
        before, now = left.blocks.get(name), right.blocks.get(name)
        if before is None or now is None:
            lines.append(f"block {name} is {'new' if before is None else 'gone'}")
        elif before != now:
            lines.append(f"block {name} has {_block_text(now)}, not {_block_text(before)}")
    return lines


def _block_text(block: Block) -> str:
    tie = "" if block.tie is None else f" with one {block.tie}"
    return f"{plural(block.layers, 'layer')} of kind {block.kind}{tie}"


def _dimensions(left: ModelSpec, right: ModelSpec) -> list[str]:
    before, now = dimensions(left), dimensions(right)
    return [
        f"{name} is {now[name]}, not {before[name]}"
        for name in before
        if name in now and now[name] != before[name]
    ]
