"""Parameters: stored once, executed as often as what owns them runs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from rinsc.cost.counts import repeat_row, run_counts
from rinsc.errors import RinscError
from rinsc.graph import (
    Block,
    BlockGraph,
    Loop,
    Rounds,
    TowersGraph,
    build_graph,
    resolve_rounds,
    verified,
)
from rinsc.graph.towers_graph import rounds_of, towers_of
from rinsc.layers import Programs, join_shapes, trace_loop, trace_programs
from rinsc.ops import Row
from rinsc.ops.program import Program
from rinsc.spec import ModelSpec, TowersSpec, model_spec
from rinsc.spec.presets import PRESETS
from rinsc.syntax.tree import Call, Option, Signature, repeats, with_repeat_options

ADAPTER = "adapter"  # the part of a repeat's programs


def visits_of_blocks(graph: BlockGraph | TowersGraph, rounds: Rounds = None) -> Counter[str]:
    """How often each block is visited, by all towers where there are several.

    Raises `GraphError` for rounds that do not fit.
    """
    visits: Counter[str] = Counter()
    for name, counts in rounds_of(graph, rounds).items():
        blocks = run_counts(towers_of(graph)[name], counts).blocks
        visits.update({block: int(runs.visits) for block, runs in blocks.items()})
    return visits


def block_params(graph: BlockGraph) -> dict[str, int]:
    """Parameters of each block, stored once; those that its layers share are counted once."""
    programs = trace_programs(graph.spec)
    return {
        block.name: sum(layer.param_count for layer in programs.layers[block.name])
        - (block.layers - 1) * _tied_params(programs, block)
        + _visit_params(programs, block)
        for block in verified(graph).blocks.values()
    }


def repeat_params(graph: BlockGraph) -> dict[str, int]:
    """Parameters of each repeat's own, by its name in reports; repeats without any are left out."""
    counts = {
        repeat_row(loop.name): sum(p.param_count for p in trace_loop(graph.spec, loop).every)
        for loop in verified(graph).loops()
    }
    return {name: count for name, count in counts.items() if count}


def adapter_params(graph: BlockGraph) -> int:
    """Parameters of the adapters of all repeats."""
    return sum(
        _params_of_part(program, ADAPTER)
        for loop in _loops(verified(graph))
        for program in trace_loop(graph.spec, loop).every
    )


def frame_params(graph: BlockGraph) -> int:
    """Parameters outside the blocks: embedding, last norm, head where it is not tied."""
    programs = trace_programs(verified(graph).spec)
    return programs.embed.param_count + programs.head.param_count


def join_params(spec: TowersSpec) -> int:
    """Parameters of what compares towers."""
    return sum(math.prod(shape) for shape in join_shapes(spec).values())


def stored_params(graph: BlockGraph | TowersGraph) -> int:
    """Parameters in memory and on disk; those of a block that towers share are there once."""
    blocks: dict[str, int] = {}
    others = 0
    for tower in towers_of(graph).values():
        blocks |= block_params(tower)
        others += frame_params(tower) + sum(repeat_params(tower).values())
    if isinstance(graph, TowersGraph):
        others += join_params(graph.spec)
    return others + sum(blocks.values())


def executed_params(graph: BlockGraph, rounds: Rounds = None) -> int:
    """Parameters counted as often as they run: those of the model that shares nothing.

    A round runs one of its repeat's adapters.
    """
    programs = trace_programs(graph.spec)
    counts = run_counts(graph, resolve_rounds(graph, rounds))
    total = frame_params(graph)
    for name, block in graph.blocks.items():
        runs = counts.blocks[name]
        total += sum(
            int(runs.share(block.layers, layers).layer_runs) * program.param_count
            for program, layers in programs.layer_counts(name)
        )
        total += int(runs.visits) * _visit_params(programs, block)
    for loop in _loops(graph):
        around, trips = trace_loop(graph.spec, loop), counts.loops[loop.name]
        if around.start is not None:
            total += int(trips.entries) * around.start.param_count
        for program in (around.before, around.after):
            if program is not None:
                total += int(trips.rounds) * _params_of_a_round(program, loop)
    return total


def _loops(graph: BlockGraph) -> list[Loop]:
    """Each loop once: unrolling writes those inside others several times."""
    return list({loop.name: loop for loop in graph.loops()}.values())


def _tied_params(programs: Programs, block: Block) -> int:
    return 0 if block.tie is None else _params_of_part(programs.layers[block.name][0], block.tie)


def _visit_params(programs: Programs, block: Block) -> int:
    """Parameters of what runs once a visit."""
    ends = (programs.enter.get(block.kind), programs.leave.get(block.kind))
    return sum(program.param_count for program in ends if program is not None)


def _params_of_part(program: Program, part: str) -> int:
    return sum(p.count for node in program.nodes if node.part == part for p in node.params)


def _params_of_a_round(program: Program, loop: Loop) -> int:
    """Injection whole, and one adapter with what all of them share."""
    return sum(
        param.count // (loop.adapters if node.part == ADAPTER and isinstance(node.op, Row) else 1)
        for node in program.nodes
        for param in node.params
    )


LIGHT_SHARE = 0.01  # of the parameters: what arXiv 2502.07503 takes for a light adapter


def adapter_share(graph: BlockGraph) -> float:
    """Parameters of adapters over all stored ones."""
    return adapter_params(graph) / stored_params(graph)


def is_light(share: float) -> bool:
    """Whether a share of adapters, as it is printed, is at most `LIGHT_SHARE`."""
    return round(share, 4) <= LIGHT_SHARE


def share_text(share: float) -> str:
    return f"{100 * share:.2f} %"


def heavy_note(spec: ModelSpec, share: float) -> str | None:
    """Words for adapters that hold ``share`` of the parameters; None where they are light."""
    if is_light(share):
        return None
    text = f"adapters hold {share_text(share)} of the parameters of {spec.text}, more than 1 %"
    lighter = light_adapter(spec)
    if lighter is None:
        return text
    adapter, less = lighter
    return f"{text}; with adapter={adapter} it is {share_text(less)}"


def heavy_at_presets(sig: Signature) -> str | None:
    """Words for a signature alone, whose adapters are heavy at some presets; None for others."""
    names = list(_heavy_presets(sig))
    return f"adapters hold more than 1 % of the parameters at {', '.join(names)}" if names else None


def _heavy_presets(sig: Signature) -> Iterator[str]:
    if not any(
        option.name == "adapter" for repeat in repeats(sig.body) for option in repeat.options
    ):
        return
    for preset in PRESETS:
        try:
            spec = model_spec(sig, preset=preset)
            share = adapter_share(build_graph(spec))
        except (
            RinscError
        ):  # too few layers for its blocks, or another reason that is said elsewhere
            continue
        if not is_light(share):
            lighter = light_adapter(spec)
            instead = "" if lighter is None else f"; adapter={lighter[0]}: {share_text(lighter[1])}"
            yield f"{preset} ({share_text(share)}{instead})"


def light_adapter(spec: ModelSpec) -> tuple[str, float] | None:
    """The largest ``shared(rank)``, a power of 2, in place of the adapters with matrices that is
    light, and its share; None where there is nothing to replace or nothing fits."""
    ranks = [1 << power for power in range(spec.width.bit_length()) if 1 << power <= spec.width]
    for rank in reversed(ranks):
        lighter = _with_shared(spec.signature, rank)
        if lighter == spec.signature:
            return None
        share = adapter_share(build_graph(replace(spec, signature=lighter)))
        if is_light(share):
            return f"shared({rank})", share
    return None


def _with_shared(sig: Signature, rank: int) -> Signature:
    def changed(option: Option) -> Option:
        has_matrices = option.value == "linear" or isinstance(option.value, Call)
        if option.name != "adapter" or not has_matrices:
            return option
        return replace(option, value=Call("shared", (rank,)))

    return replace(sig, body=with_repeat_options(sig.body, changed))
