"""FLOPs of a graph, exact, split by part and by block, by a convention that has a name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import get_args

from rinsc.cost.counts import (
    Number,
    ProgramRuns,
    RunCounts,
    checked_counts,
    checked_sequence,
    expected_run_counts,
    program_runs,
    run_counts,
)
from rinsc.errors import GraphError, SpecError, plural
from rinsc.graph import BlockGraph, Loop, Rounds, TowersGraph, build_graph, require_graph
from rinsc.graph.towers_graph import by_dial, rounds_of, told_rounds_of, towers_of
from rinsc.layers import fixed_length, trace_join, trace_programs
from rinsc.ops import Causal, at_sizes
from rinsc.ops.program import Program, Value
from rinsc.spec import ModelSpec, TowersSpec


@dataclass(frozen=True)
class FlopConvention:
    """What is counted; 2 FLOPs a multiply-add of matrix products, nothing else, in all of them.

    The default is what PyTorch's ``FlopCounterMode`` counts: every pair of positions although
    half of them are masked, the head included, the backward pass twice the forward one, nothing
    for recomputation. Raises `SpecError` for another ``causal``.

    >>> from rinsc import cost_report, model_spec
    >>> spec = model_spec("(A^3)B", preset="300m")
    >>> half = cost_report(spec, convention=FlopConvention(causal="half"))
    >>> half.forward.total < cost_report(spec).forward.total
    True
    """

    causal: Causal = "full"
    head: bool = True
    recompute: bool = False

    def __post_init__(self) -> None:
        if self.causal not in get_args(Causal):
            message = f"causal is {self.causal!r:.40}; it must be one of {get_args(Causal)}"
            hint = "'full' counts every pair of positions, 'half' those that are not masked"
            raise SpecError("bad-convention", message, place="causal", hint=hint)

    @property
    def backward_factor(self) -> int:
        """Backward over forward FLOPs: a product for each of its two inputs' gradients."""
        return 2

    @property
    def gradient_factor(self) -> int:
        """What training adds over forward FLOPs of what runs with gradients.

        Recomputation runs the forward pass once more.
        """
        return self.backward_factor + (1 if self.recompute else 0)

    @property
    def training_factor(self) -> int:
        """Training over forward FLOPs of what runs with gradients."""
        return 1 + self.gradient_factor

    @property
    def name(self) -> str:
        return (
            f"2 per multiply-add, causal {self.causal}, head {'in' if self.head else 'out'}, "
            f"backward 2x, recompute {'in' if self.recompute else 'out'}"
        )


PYTORCH = FlopConvention()


@dataclass(frozen=True)
class FlopSplit:
    """Forward FLOPs of one batch, by part of the layers and by block; both sum to ``total``.

    What a repeat does between its rounds stands under ``repeat`` and its name.
    """

    by_part: dict[str, int]
    by_block: dict[str, int]

    @property
    def total(self) -> int:
        return sum(self.by_part.values())


def program_flops(
    program: Program, batch: int, seq: int, convention: FlopConvention
) -> Counter[str]:
    """FLOPs of one run of a program, by part."""
    sizes = (("batch", batch), ("seq", seq))
    flops: Counter[str] = Counter()
    for node in program.nodes:
        shapes = [at_sizes(value.shape, sizes) for value in node.inputs]
        flops[node.part] += node.op.matmul_flops(*shapes, causal=convention.causal)
    return flops


def forward_flops(
    graph: BlockGraph | TowersGraph,
    seq: int,
    *,
    batch: int = 1,
    rounds: Rounds = None,
    convention: FlopConvention = PYTORCH,
) -> FlopSplit:
    """Forward FLOPs of ``batch`` sequences of ``seq`` tokens, at the rounds written or asked.

    Of towers it is a sequence in each, none longer than its context. Raises `SpecError` for counts
    that are not positive.
    """
    seq, batch = checked_counts(seq=seq, batch=batch)
    by_part: Counter[str] = Counter()
    by_block: Counter[str] = Counter()
    counts = rounds_of(graph, rounds)
    for name, tower in towers_of(graph).items():
        length = length_in_tower(tower.spec, seq) if name else seq
        for run in _counted(tower, run_counts(tower, counts[name]), convention):
            for share, flops in program_flops(run.program, batch, length, convention).items():
                by_part[share] += int(run.runs) * flops
                by_block[run.owner] += int(run.runs) * flops
    if isinstance(graph, TowersGraph) and graph.spec.pairing is not None:
        by_part[JOIN] += join_flops(graph.spec, batch)
        by_block[JOIN] += join_flops(graph.spec, batch)
    return FlopSplit(dict(by_part), dict(by_block))


JOIN = "join"


def join_flops(spec: TowersSpec, batch: int) -> int:
    """Forward FLOPs of comparing each picture of a batch with each text; of others it is 0."""
    join, sizes = trace_join(spec), (("images", batch), ("texts", batch))
    return sum(
        node.op.matmul_flops(
            *(at_sizes(value.shape, sizes) for value in node.inputs), causal="full"
        )
        for node in (() if join is None else join.nodes)
    )


def length_in_tower(spec: ModelSpec, seq: int) -> int:
    """How long a sequence is in a tower, where those of all are ``seq`` long or as long as can
    be."""
    return fixed_length(spec) or min(seq, spec.context)


def training_flops(
    spec: ModelSpec | BlockGraph | TowersSpec | TowersGraph,
    seq: int,
    *,
    batch: int = 1,
    rounds: Rounds = None,
    convention: FlopConvention = PYTORCH,
) -> int:
    """FLOPs of one training step over ``batch`` sequences of ``seq`` tokens.

    Repeats that ``rounds`` does not set run as training runs them: as written, or in expectation
    where training draws their rounds. Of towers it is a sequence in each, none longer than its
    context. An expectation that is no whole number is rounded. Raises
    `SpecError` for counts that are not positive and for a ``seq`` beyond the context, and
    `GraphError` for rounds that the model cannot run, or at which a repeat with ``grad`` would
    keep gradients from what stands before it.
    """
    graph: BlockGraph | TowersGraph
    if isinstance(spec, TowersSpec | TowersGraph):
        graph = build_graph(spec) if isinstance(spec, TowersSpec) else spec
    else:
        graph = require_graph(spec)
        checked_sequence(graph.spec, seq)
    seq, batch = checked_counts(seq=seq, batch=batch)
    set_rounds(graph, rounds)
    named, flops = told_rounds_of(graph, rounds), 0
    for name, tower in towers_of(graph).items():
        length = length_in_tower(tower.spec, seq)
        counts = expected_run_counts(tower, named[name])
        flops += round(flops_of_a_step(tower, counts, batch, length, convention))
    if isinstance(graph, TowersGraph):
        flops += training_join_flops(graph.spec, batch, convention)
    return flops


def training_join_flops(spec: TowersSpec, batch: int, convention: FlopConvention = PYTORCH) -> int:
    """FLOPs of `join_flops` with the gradients of both embeddings."""
    return join_flops(spec, batch) * (1 + convention.backward_factor)


def training_flops_per_token(
    spec: ModelSpec | BlockGraph,
    seq: int,
    *,
    rounds: Rounds = None,
    convention: FlopConvention = PYTORCH,
) -> int:
    """Training FLOPs of a sequence over its tokens; every term has the factor seq.

    Exact where no rounds are drawn, else rounded.
    """
    flops = training_flops(spec, seq, rounds=rounds, convention=convention)
    (seq,) = checked_counts(seq=seq)
    return (2 * flops + seq) // (2 * seq)


def set_rounds(graph: BlockGraph | TowersGraph, rounds: Rounds) -> dict[str, int]:
    """The rounds of the repeats that training is told.

    Raises `GraphError` for rounds that the model cannot run or train.
    """
    for name, counts in rounds_of(graph, rounds).items():
        _require_gradients(towers_of(graph)[name], counts)
    return by_dial(told_rounds_of(graph, rounds))


def _require_gradients(graph: BlockGraph, rounds: Mapping[str, int]) -> None:
    """Raises `GraphError` where a repeat cuts off what stands before it from its gradients."""
    for wired in graph.wired():
        loop = wired.step
        if not isinstance(loop, Loop):
            continue
        _require_gradients(loop.body, rounds)
        grad, count = loop.options.grad, loop.rounds_of(rounds)
        if grad is not None and wired.injection is None and count > grad:
            message = f"at {plural(count, 'round')} of '{loop.name}' and grad={grad}, what comes "
            message += "before the repeat gets no gradient"
            hint = f"train at {plural(grad, 'round')} or less, or add inject=add, gate or concat"
            raise GraphError("no-gradient", message, place="rounds", hint=hint)


def flops_of_a_step(
    graph: BlockGraph, counts: RunCounts, batch: int, seq: int, convention: FlopConvention
) -> Number:
    """Forward FLOPs of everything that runs, and backward FLOPs of what runs with gradients."""
    total: Number = 0
    for run in _counted(graph, counts, convention):
        flops = program_flops(run.program, batch, seq, convention).total()
        total += flops * (run.runs + convention.gradient_factor * run.with_grad)
    return total - _input_gradient_flops(graph, batch, seq, convention)


def _counted(
    graph: BlockGraph, counts: RunCounts, convention: FlopConvention
) -> Iterator[ProgramRuns]:
    """The programs that the convention counts."""
    every = program_runs(graph, counts)
    return every if convention.head else (run for run in every if not run.is_head)


def _input_gradient_flops(
    graph: BlockGraph, batch: int, seq: int, convention: FlopConvention
) -> int:
    """What the gradient of the model's own input would cost, which nobody needs.

    That is one product for each one in the embedding that no trained tensor has gone into.
    """
    embed = trace_programs(graph.spec).embed
    learned: set[Value] = set()
    untouched = []
    for node in embed.nodes:
        if learned.isdisjoint(node.inputs):
            untouched.append(node)
        if node.params or not learned.isdisjoint(node.inputs):
            learned.add(node.output)
    unlearned = replace(embed, nodes=tuple(untouched))
    return program_flops(unlearned, batch, seq, convention).total()
