"""The cost report of one variant, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from html import escape
from typing import Any, TypedDict, Unpack, overload

from rinsc.cost.counts import checked_counts, checked_sequence, exactly, in_expectation, run_counts
from rinsc.cost.flops import (
    PYTORCH,
    FlopConvention,
    FlopSplit,
    forward_flops,
    join_flops,
    set_rounds,
    training_flops,
    training_join_flops,
)
from rinsc.cost.memory import MemoryReport, memory
from rinsc.cost.params import (
    adapter_params,
    block_params,
    executed_params,
    join_params,
    repeat_params,
    stored_params,
)
from rinsc.errors import plural
from rinsc.formats import TrainingPrecision
from rinsc.graph import (
    BlockGraph,
    Rounds,
    TowersGraph,
    build_graph,
    require_graph,
    resolve_rounds,
    rounds_in_words,
    tower_rounds,
    verified,
)
from rinsc.graph.law import drawn_loops
from rinsc.graph.towers_graph import verified_towers
from rinsc.layers import fixed_length
from rinsc.scalars import html_table, rounded_count, rounded_flops
from rinsc.spec import ModelSpec, TowersSpec


@dataclass(frozen=True)
class CostReport:
    """Everything `rinsc cost` prints; FLOPs are of one sequence of ``seq`` tokens.

    ``rounds`` by repeat are those of the forward pass, of the cache and of the activations, which
    are of ``batch`` sequences. ``training_flops`` is of a step at ``expected_rounds``, an
    expectation over the rounds of ``drawn_repeats``, rounded to a whole number.
    """

    signature: str
    convention: FlopConvention
    rounds: dict[str, int]
    expected_rounds: dict[str, int | float]
    drawn_repeats: tuple[str, ...]
    seq: int
    batch: int
    stored_params: int
    adapter_params: int
    executed_params: int
    params_by_block: dict[str, int]
    stored_layers: int
    executed_layers: int
    forward: FlopSplit
    training_flops: int
    memory: MemoryReport

    def __repr__(self) -> str:
        params, flops = rounded_count(self.stored_params), rounded_flops(self.forward_flops)
        tokens = plural(self.seq, "token")
        return f"<CostReport {self.signature}: {params} parameters, {flops} for {tokens}>"

    def _repr_html_(self) -> str:
        """Totals, for notebooks; `as_dict` has everything."""
        rounds = rounds_in_words(self.rounds) or "-"
        rows = [
            ("rounds", rounds),
            ("stored parameters", f"{self.stored_params:,}"),
            ("executed parameters", f"{self.executed_params:,}"),
            ("layers stored, executed", f"{self.stored_layers}, {self.executed_layers}"),
            ("forward FLOPs per token", f"{self.forward_flops_per_token:,}"),
            ("training FLOPs per token", f"{self.training_flops_per_token:,}"),
        ]
        blocks = [(name, f"{count:,}") for name, count in self.params_by_block.items()]
        tables = html_table((), rows) + html_table(("block", "parameters"), blocks)
        return f"<div><code>{escape(self.signature)}</code>{tables}</div>"

    @property
    def forward_flops(self) -> int:
        return self.forward.total

    @property
    def adapter_share(self) -> float:
        """Parameters of adapters over all stored ones."""
        return self.adapter_params / self.stored_params

    @property
    def forward_flops_per_token(self) -> int:
        return self.forward_flops // self.seq

    @property
    def training_flops_per_token(self) -> int:
        """Exact where no rounds are drawn, else rounded."""
        return (2 * self.training_flops + self.seq) // (2 * self.seq)

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON, sums included."""
        return {
            **asdict(self),
            "convention": self.convention.name,
            "adapter_share": self.adapter_share,
            "forward_flops": self.forward_flops,
            "training_flops": self.training_flops,
            "forward_flops_per_token": self.forward_flops_per_token,
            "training_flops_per_token": self.training_flops_per_token,
        }


@dataclass(frozen=True)
class JoinReport:
    """What comparing pictures with texts costs, for each pair of a batch of ``batch``."""

    batch: int
    stored_params: int
    forward_flops: int
    training_flops: int

    @property
    def executed_params(self) -> int:
        return self.stored_params


@dataclass(frozen=True)
class TowersReport:
    """The report of each tower, and what they store together: shared blocks are counted once.

    FLOPs and executed layers are of one pass of every tower, a sequence each. Where they are
    compared, ``join`` says what that costs, and the sums of FLOPs have it.
    """

    signature: str
    towers: dict[str, CostReport]
    shared_blocks: tuple[str, ...]
    stored_params: int
    stored_layers: int
    join: JoinReport | None = None

    def __repr__(self) -> str:
        params, flops = rounded_count(self.stored_params), rounded_flops(self.forward_flops)
        return f"<TowersReport {self.signature}: {params} parameters, {flops} a sequence each>"

    def _repr_html_(self) -> str:
        """A column for each tower and one for all, for notebooks."""
        columns: list[CostReport | TowersReport] = [*self.towers.values(), self]
        rows = [
            ("stored parameters", *(f"{column.stored_params:,}" for column in columns)),
            ("executed layers", *(f"{column.executed_layers:,}" for column in columns)),
            ("forward FLOPs", *(f"{column.forward_flops:,}" for column in columns)),
            ("training FLOPs", *(f"{column.training_flops:,}" for column in columns)),
        ]
        table = html_table(("", *self.towers, "all"), rows)
        return f"<div><code>{escape(self.signature)}</code>{table}</div>"

    @property
    def memory(self) -> MemoryReport:
        """Bytes of training all towers at once: weights of shared blocks are there once.

        The cache is of a token in each tower.
        """
        reports = [report.memory for report in self.towers.values()]
        counted = sum(report.stored_params for report in self.towers.values())

        def once(every: int) -> int:
            return every * self.stored_params // counted  # the same bytes for each parameter

        return MemoryReport(
            precision=reports[0].precision,
            weight_bytes=once(sum(report.weight_bytes for report in reports)),
            gradient_bytes=once(sum(report.gradient_bytes for report in reports)),
            optimizer_bytes=once(sum(report.optimizer_bytes for report in reports)),
            kv_bytes_per_token=sum(report.kv_bytes_per_token for report in reports),
            activation_bytes=sum(report.activation_bytes for report in reports),
        )

    @property
    def executed_params(self) -> int:
        towers = sum(report.executed_params for report in self.towers.values())
        return towers + (self.join.executed_params if self.join is not None else 0)

    @property
    def executed_layers(self) -> int:
        return sum(report.executed_layers for report in self.towers.values())

    @property
    def forward_flops(self) -> int:
        towers = sum(report.forward_flops for report in self.towers.values())
        return towers + (self.join.forward_flops if self.join is not None else 0)

    @property
    def training_flops(self) -> int:
        towers = sum(report.training_flops for report in self.towers.values())
        return towers + (self.join.training_flops if self.join is not None else 0)

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON, sums included."""
        return {
            "signature": self.signature,
            "shared_blocks": list(self.shared_blocks),
            "stored_params": self.stored_params,
            "executed_params": self.executed_params,
            "stored_layers": self.stored_layers,
            "executed_layers": self.executed_layers,
            "forward_flops": self.forward_flops,
            "training_flops": self.training_flops,
            "memory": asdict(self.memory),
            **({} if self.join is None else {"join": asdict(self.join)}),
            "towers": {name: report.as_dict() for name, report in self.towers.items()},
        }


class _Settings(TypedDict, total=False):
    seq: int | None
    batch: int
    rounds: Rounds
    convention: FlopConvention
    precision: TrainingPrecision


@overload
def cost_report(spec: ModelSpec | BlockGraph, **settings: Unpack[_Settings]) -> CostReport: ...


@overload
def cost_report(spec: TowersSpec | TowersGraph, **settings: Unpack[_Settings]) -> TowersReport: ...


@overload
def cost_report(
    spec: ModelSpec | BlockGraph | TowersSpec | TowersGraph, **settings: Unpack[_Settings]
) -> CostReport | TowersReport: ...


def cost_report(
    spec: ModelSpec | BlockGraph | TowersSpec | TowersGraph,
    *,
    seq: int | None = None,
    batch: int = 1,
    rounds: Rounds = None,
    convention: FlopConvention = PYTORCH,
    precision: TrainingPrecision = "fp32",
) -> CostReport | TowersReport:
    """The report of a spec at ``seq`` tokens (its context by default); memory for ``batch``.

    Of towers, that of each and what they store together. Raises `SpecError` for counts that are not
    positive and for a ``seq`` beyond the context, and `GraphError` for rounds that the model cannot
    run or train.

    >>> from rinsc import model_spec
    >>> report = cost_report(model_spec("(A^3)B", preset="300m"))
    >>> report.stored_params, report.executed_params
    (303350784, 573932544)
    """
    towers = build_graph(spec) if isinstance(spec, TowersSpec) else spec
    graph = towers if isinstance(towers, TowersGraph) else require_graph(towers)
    settings: dict[str, Any] = {"seq": seq, "batch": batch}
    settings |= {"convention": convention, "precision": precision}
    if isinstance(graph, TowersGraph):
        return _towers_report(graph, rounds=rounds, **settings)
    return _report(graph, rounds=rounds, **settings)


def _towers_report(graph: TowersGraph, *, rounds: Rounds, **settings: Any) -> TowersReport:
    """The report of every tower, and of what they store together."""
    named = tower_rounds(verified_towers(graph), rounds, named=True)
    seq, (batch,) = settings.pop("seq"), checked_counts(batch=settings["batch"])
    reports = {
        name: _report(
            tower,
            seq=seq if fixed_length(tower.spec) is None else None,
            rounds=named[name] or None,
            **settings,
        )
        for name, tower in graph.towers.items()
    }
    join, convention = None, settings["convention"]
    if graph.spec.pairing is not None:
        join = JoinReport(
            batch=batch,
            stored_params=join_params(graph.spec),
            forward_flops=join_flops(graph.spec, batch) // batch,
            training_flops=training_join_flops(graph.spec, batch, convention) // batch,
        )
    return TowersReport(
        join=join,
        signature=graph.spec.text,
        towers=reports,
        shared_blocks=graph.spec.shared_blocks,
        stored_params=stored_params(graph),
        stored_layers=graph.stored_layers,
    )


def _report(
    graph: BlockGraph,
    *,
    seq: int | None,
    batch: int,
    rounds: Rounds,
    convention: FlopConvention,
    precision: TrainingPrecision,
) -> CostReport:
    seq = checked_sequence(graph.spec, graph.spec.context if seq is None else seq)
    (batch,) = checked_counts(batch=batch)
    resolved = resolve_rounds(graph, rounds)
    counts = run_counts(graph, resolved)
    named = set_rounds(graph, rounds)
    return CostReport(
        signature=graph.spec.text,
        convention=convention,
        rounds=resolved,
        expected_rounds=expected_rounds(graph, named),
        drawn_repeats=tuple(loop.name for loop in drawn_loops(graph) if loop.name not in named),
        seq=seq,
        batch=batch,
        stored_params=stored_params(graph),
        adapter_params=adapter_params(graph),
        executed_params=executed_params(graph, resolved),
        params_by_block=block_params(graph) | repeat_params(graph),
        stored_layers=graph.stored_layers,
        executed_layers=int(counts.layer_runs),
        forward=forward_flops(graph, seq, rounds=rounds, convention=convention),
        training_flops=training_flops(graph, seq, rounds=rounds, convention=convention),
        memory=memory(graph, seq, batch=batch, rounds=resolved, precision=precision),
    )


def expected_rounds(
    graph: BlockGraph, rounds: Mapping[str, int] | None = None
) -> dict[str, int | float]:
    """Expected rounds of each repeat in training, where only those of ``rounds`` are set."""
    named = rounds or {}
    means = {}
    for loop in verified(graph).dials():
        known = exactly(loop, named) if loop.name in named else in_expectation(loop)
        means[loop.name] = known.rounds
    return {name: int(mean) if mean == int(mean) else float(mean) for name, mean in means.items()}
