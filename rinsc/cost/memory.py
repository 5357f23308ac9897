"""Bytes: weights, gradients, optimizer state, key-value cache, and activations."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from rinsc.cost.counts import (
    FRAME,
    ProgramRuns,
    RunCounts,
    checked_counts,
    exactly,
    program_runs,
    repeat_row,
    run_counts,
)
from rinsc.cost.params import stored_params
from rinsc.cost.storages import FULL, ID_BYTES, run_storages
from rinsc.errors import SpecError, did_you_mean
from rinsc.formats import FORMATS, TrainingPrecision, names
from rinsc.graph import BlockGraph, Loop, Rounds, Visit, resolve_rounds
from rinsc.layers import trace_loop, trace_programs, weights
from rinsc.ops import (
    Embedding,
    PatchConvolution,
    Positions,
    TiedLinear,
    at_sizes,
)
from rinsc.ops.program import Program

Checkpointing = Literal["none", "visit", "round"]
MASTER_BYTES = 4  # gradients and optimizer state stay in fp32


@dataclass(frozen=True)
class MemoryReport:
    """Bytes of one training step, and of the cache that generation keeps.

    ``activation_bytes`` is an upper bound of what PyTorch keeps for the backward pass, within 5 %
    on a CPU: each storage once, without the allocator's slack. A GPU's fused norms keep less. In
    bf16 it is that of autocast, as `rinsc train` runs, with the copies that it makes of weights.
    Rounds without gradients keep nothing. With checkpointing of visits or rounds, each keeps the
    state that it was given, and the largest of them is there once more while it is recomputed: an
    upper bound alone, of up to 1.8 times the peak, as the loss and that one are never live at once.
    """

    precision: TrainingPrecision
    weight_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    kv_bytes_per_token: int
    activation_bytes: int


def memory(
    graph: BlockGraph,
    seq: int,
    *,
    batch: int = 1,
    rounds: Rounds = None,
    precision: TrainingPrecision = "fp32",
    checkpointing: Checkpointing = "none",
) -> MemoryReport:
    """The bytes of a model that trains with AdamW on ``batch`` sequences of ``seq`` tokens.

    Weights are stored in ``precision``, and so is the cache. Rounds are those
    written, where none are asked, also where training draws them.
    """
    seq, batch = checked_counts(seq=seq, batch=batch)
    params = stored_params(graph)
    resolved = resolve_rounds(graph, rounds)
    counts = run_counts(graph, resolved)
    width = _element_bytes(precision)
    return MemoryReport(
        precision=precision,
        weight_bytes=params * width,
        gradient_bytes=params * MASTER_BYTES,
        optimizer_bytes=params * 2 * MASTER_BYTES,  # AdamW: two moments
        kv_bytes_per_token=_kv_elements(graph, counts) * width,
        activation_bytes=_activation_bytes(graph, resolved, batch, seq, checkpointing, precision),
    )


def _element_bytes(precision: TrainingPrecision) -> int:
    known = names(trains=True)
    if precision in known:
        return FORMATS[precision].bits // 8
    message = f"'{precision}' is not a precision"
    hint = did_you_mean(str(precision), known)
    raise SpecError("unknown-precision", message, place="precision", hint=hint)


def kv_elements_per_token(program: Program) -> int:
    """Keys and values that the attention of one layer run keeps for each token."""
    elements = 0
    for node in program.nodes:
        if node.op.needs == "keys":
            for value in node.inputs[1:]:
                elements += math.prod(at_sizes(value.shape, (("batch", 1), ("seq", 1))))
    return elements


def _kv_elements(graph: BlockGraph, counts: RunCounts) -> int:
    """Those of every slot: one a layer run, or one for all rounds of a repeat that shares it."""
    programs = trace_programs(graph.spec)
    return sum(
        int(counts.blocks[name].cache_slots) * layers * kv_elements_per_token(program)
        for name in graph.blocks
        for program, layers in programs.layer_counts(name)
    )


def saved_bytes(
    program: Program,
    batch: int,
    seq: int,
    precision: TrainingPrecision = "fp32",
    widths: Mapping[str, int] | None = None,
) -> int:
    """What one run of the program keeps for its backward pass in PyTorch, each storage once.

    In bf16 the products run under autocast, which makes a copy of what is not bf16 yet. What has a
    fixed shape is a weight, or a view of one, and is there anyway. ``widths`` are the bytes of an
    element of inputs that are not fp32.
    """
    saved = run_storages(program, batch, seq, _element_bytes(precision), widths or {})
    return sum(saved.storages.values())


def _activation_bytes(
    graph: BlockGraph,
    rounds: Mapping[str, int],
    batch: int,
    seq: int,
    checkpointing: Checkpointing,
    precision: TrainingPrecision,
) -> int:
    _, logits = trace_programs(graph.spec).output
    sizes = (("batch", batch), ("seq", seq))
    loss = FULL * math.prod(at_sizes(logits.shape, sizes))  # logarithms of probabilities
    loss += ID_BYTES * math.prod(at_sizes(logits.shape[:-1], sizes)) + FULL
    step = _Step(graph, batch, seq, precision)
    counts = run_counts(graph, rounds)
    saved = loss + sum(step.saved(run) for run in program_runs(graph, counts))
    if precision == "bf16":
        saved += FORMATS["bf16"].bits // 8 * _matrix_elements(graph)
    if checkpointing == "none":
        return saved
    of_units = step.visits if checkpointing == "visit" else step.rounds
    units = list(of_units(rounds))
    state = FULL * batch * seq * graph.spec.width
    dropped = sum(times * (size - state) for times, size in units)
    return saved - dropped + max((size for times, size in units if times), default=0)


def _matrix_elements(graph: BlockGraph) -> int:
    """Elements of the matrices of which autocast keeps a copy, each once a step."""
    spec = graph.spec
    programs = trace_programs(spec)
    # What learns nothing keeps no matrix; a convolution keeps its own in any case.
    inputs = set(programs.embed.inputs.values())
    tables = {
        f"{node.name}.weight"
        for node in programs.embed.nodes
        if isinstance(node.op, Embedding | Positions)
        or (inputs & set(node.inputs) and not isinstance(node.op, PatchConvolution))
    }
    tied = {
        f"{node.op.owner}.weight" for node in programs.head.nodes if isinstance(node.op, TiedLinear)
    }
    return sum(
        math.prod(param.shape)
        for name, param in weights(graph)
        if len(param.shape) in (2, 4) and name not in tables - tied
    )


@dataclass
class _StateWidths:
    """Bytes of an element of the state, as it goes through a graph: under autocast a product that
    nothing is added to, as that of ``inject=concat``, leaves it in bf16."""

    graph: BlockGraph
    products: int
    # At most, of the inputs of each program, by owner and program.
    inputs: dict[tuple[str, int], dict[str, int]] = field(default_factory=dict)
    _after: dict[tuple[int, int], int] = field(default_factory=dict)

    def through(self, owner: str, program: Program, **widths: int) -> int:
        """The width of a program's result."""
        widths = {name: width for name, width in widths.items() if name in program.inputs}
        known = self.inputs.setdefault((owner, id(program)), {})
        known |= {name: max(width, known.get(name, 0)) for name, width in widths.items()}
        saved = run_storages(program, 1, 1, self.products, widths)
        result = program.outputs.get("x")
        return FULL if result is None else saved.widths.get(result, FULL)

    def after(self, graph: BlockGraph, width: int) -> int:
        """The width of the state behind a graph, or a body."""
        key = (id(graph), width)
        if key not in self._after:
            widths = [width]
            for wired in graph.wired():
                entry = widths[wired.entry]
                run = self._visit if isinstance(wired.step, Visit) else self._loop
                widths.append(run(wired.step, entry))  # type: ignore[arg-type]
            self._after[key] = widths[-1]
        return self._after[key]

    def _visit(self, visit: Visit, width: int) -> int:
        block, programs = self.graph.blocks[visit.block], trace_programs(self.graph.spec)
        layers = programs.layers[block.name][:: -1 if visit.reverse else 1]
        runs = [program for program in layers for _ in range(min(2, visit.each))]
        # A program that follows itself changes nothing after its second run.
        news = [p for i, p in enumerate(runs) if i < 2 or not (p is runs[i - 1] is runs[i - 2])]
        ends = programs.enter.get(block.kind), programs.leave.get(block.kind)
        for program in (ends[0], *news, ends[1]):
            if program is not None:
                width = self.through(visit.block, program, x=width)
        return width

    def _loop(self, loop: Loop, entry: int) -> int:
        """Two rounds show every width that there is."""
        around, owner, width = trace_loop(self.graph.spec, loop), repeat_row(loop.name), entry
        if around.start is not None:
            width = self.through(owner, around.start, entry=entry)
        for _ in range(2):
            inside = width
            if around.before is not None:
                inside = self.through(owner, around.before, x=width, entry=entry)
            width = self.after(loop.body, inside)
            if around.after is not None:
                width = self.through(owner, around.after, x=inside, y=width)
        return width


Unit = tuple[int, int]  # how often it runs with gradients, and the bytes that one run keeps


@dataclass(frozen=True)
class _Step:
    """A training step, of which programs keep something."""

    graph: BlockGraph
    batch: int
    seq: int
    precision: TrainingPrecision

    @cached_property
    def _widths(self) -> Mapping[tuple[str, int], Mapping[str, int]]:
        programs = trace_programs(self.graph.spec)
        widths = _StateWidths(self.graph, _element_bytes(self.precision))
        state = widths.after(self.graph, widths.through(FRAME, programs.embed))
        widths.through(FRAME, programs.head, x=state)
        return widths.inputs

    def saved(self, run: ProgramRuns) -> int:
        return int(run.with_grad) * self._of(run.owner, run.program)

    def _of(self, owner: str, program: Program) -> int:
        widths = self._widths.get((owner, id(program)))
        return saved_bytes(program, self.batch, self.seq, self.precision, widths)

    def visits(self, rounds: Mapping[str, int]) -> Iterator[Unit]:
        """The visits of each block, recomputed one at a time."""
        counts = run_counts(self.graph, rounds)
        of_block: Counter[str] = Counter()
        for run in program_runs(self.graph, counts):
            of_block[run.owner] += self.saved(run)
        for name, runs in counts.blocks.items():
            times = int(runs.visits_with_grad)
            yield times, of_block[name] // max(1, times)

    def rounds(self, rounds: Mapping[str, int]) -> Iterator[Unit]:
        """The rounds of each repeat that stands in no other, recomputed one at a time."""
        for loop in self.graph.steps():
            if isinstance(loop, Loop):
                inside = program_runs(loop.body, run_counts(loop.body, rounds))
                size = sum(self.saved(run) for run in inside if run.owner != FRAME)
                around = trace_loop(self.graph.spec, loop)
                own = [run for run in (around.before, around.after) if run is not None]
                size += sum(self._of(repeat_row(loop.name), program) for program in own)
                yield int(exactly(loop, rounds).with_grad), size
