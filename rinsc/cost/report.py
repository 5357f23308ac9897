"""The cost report of one variant, as data."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from rinsc.cost.checks import require_counts, require_sequence
from rinsc.cost.convention import PYTORCH, FlopConvention
from rinsc.cost.flops import FlopSplit, forward_flops
from rinsc.cost.memory import MemoryReport, Precision, memory
from rinsc.cost.params import block_params, executed_params, stored_params
from rinsc.graph import BlockGraph, Rounds, build_graph, resolve_rounds
from rinsc.spec import ModelSpec


@dataclass(frozen=True)
class CostReport:
    """Everything `rinsc cost` prints; FLOPs are of one sequence of ``seq`` tokens, forward.

    ``rounds`` by repeat are those counted; activations are of ``batch`` sequences.
    """

    signature: str
    convention: FlopConvention
    rounds: dict[str, int]
    seq: int
    batch: int
    stored_params: int
    executed_params: int
    params_by_block: dict[str, int]
    stored_layers: int
    executed_layers: int
    forward: FlopSplit
    memory: MemoryReport

    @property
    def forward_flops(self) -> int:
        return self.forward.total

    @property
    def training_flops(self) -> int:
        return self.forward.total * self.convention.training_factor

    @property
    def forward_flops_per_token(self) -> int:
        return self.forward_flops // self.seq

    @property
    def training_flops_per_token(self) -> int:
        return self.training_flops // self.seq

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON, sums included."""
        return {
            **asdict(self),
            "convention": self.convention.name,
            "forward_flops": self.forward_flops,
            "training_flops": self.training_flops,
            "forward_flops_per_token": self.forward_flops_per_token,
            "training_flops_per_token": self.training_flops_per_token,
        }


def cost_report(
    spec: ModelSpec | BlockGraph,
    *,
    seq: int | None = None,
    batch: int = 1,
    rounds: Rounds = None,
    convention: FlopConvention = PYTORCH,
    precision: Precision = "fp32",
) -> CostReport:
    """The report of a spec at ``seq`` tokens (its context by default); memory for ``batch``.

    Raises `SpecError` for counts that are not positive and for a ``seq`` beyond the context, and
    `GraphError` for rounds that the model cannot run.
    """
    graph = spec if isinstance(spec, BlockGraph) else build_graph(spec)
    seq = graph.spec.context if seq is None else seq
    require_sequence(graph.spec, seq)
    require_counts(batch=batch)
    return CostReport(
        signature=graph.spec.text,
        convention=convention,
        rounds=resolve_rounds(graph, rounds),
        seq=seq,
        batch=batch,
        stored_params=stored_params(graph),
        executed_params=executed_params(graph, rounds),
        params_by_block=block_params(graph),
        stored_layers=graph.stored_layers,
        executed_layers=graph.executed_layers(resolve_rounds(graph, rounds)),
        forward=forward_flops(graph, seq, rounds=rounds, convention=convention),
        memory=memory(graph, seq, batch=batch, rounds=rounds, precision=precision),
    )
