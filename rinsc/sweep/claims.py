"""What is claimed of the entries of the zoo, beside what we count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rinsc.cost import (
    adapter_params,
    expected_rounds,
    stored_params,
    training_flops_per_token,
)
from rinsc.graph import BlockGraph, build_graph
from rinsc.spec import ModelSpec
from rinsc.sweep.zoo import ZooEntry


@dataclass(frozen=True)
class Figures:
    """What an entry costs; ``cost_ratio`` is None where it has no baseline."""

    signature: str
    parameters: int
    executed_layers: int
    cost_ratio: float | None
    adapter_share: float
    expected_rounds: Mapping[str, int | float]


@dataclass(frozen=True)
class Claim:
    """A published figure and ours; ``tolerance`` is relative, and None bounds from above."""

    name: str
    claimed: int | float
    here: int | float
    tolerance: float | None

    @property
    def holds(self) -> bool:
        if self.tolerance is None:
            return self.here <= self.claimed
        return abs(self.here - self.claimed) <= self.tolerance * self.claimed


def figures(entry: ZooEntry) -> Figures:
    """The costs of an entry at its published dimensions, counted without any weights."""
    graph = build_graph(entry.spec)
    parameters = stored_params(graph)
    return Figures(
        signature=entry.spec.text,
        parameters=parameters,
        executed_layers=graph.executed_layers(),
        cost_ratio=_cost_ratio(graph, entry.baseline),
        adapter_share=adapter_params(graph) / parameters,
        expected_rounds=expected_rounds(graph),
    )


def _cost_ratio(graph: BlockGraph, baseline: ModelSpec | None) -> float | None:
    if baseline is None:
        return None
    once = training_flops_per_token(baseline, baseline.context)
    return training_flops_per_token(graph, graph.spec.context) / once


def claims(entry: ZooEntry, found: Figures) -> Iterator[Claim]:
    """Everything that the entry claims, beside the figures found."""
    expect = entry.expect
    tolerance = expect.parameters_tolerance
    yield Claim("parameters", expect.parameters, found.parameters, tolerance)
    if expect.executed_layers is not None:
        yield Claim("layers executed", expect.executed_layers, found.executed_layers, 0.0)
    if expect.cost_ratio is not None and found.cost_ratio is not None:
        name = f"training FLOPs against {expect.baseline}"
        yield Claim(name, expect.cost_ratio, found.cost_ratio, expect.cost_ratio_tolerance)
    if expect.max_adapter_share is not None:
        share = expect.max_adapter_share
        yield Claim("share of adapters, at most", share, found.adapter_share, None)
