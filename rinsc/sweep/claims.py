"""What is expected of the entries of the zoo, beside what we count."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rinsc.cost import (
    expected_rounds,
    stored_params,
    training_flops_per_token,
)
from rinsc.cost.adapters import adapter_share
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec
from rinsc.sweep.costed import visited_once
from rinsc.sweep.zoo import ZooEntry


@dataclass(frozen=True)
class Figures:
    """What an entry costs; ``cost_ratio`` is that of training FLOPs per token against ``baseline``,
    the same blocks visited once each."""

    signature: str
    parameters: int
    executed_layers: int
    cost_ratio: float
    baseline: str
    adapter_share: float
    expected_rounds: Mapping[str, int | float]


@dataclass(frozen=True)
class Claim:
    """What the entry expects, published or worked out from its dimensions, and what we count.

    ``tolerance`` is relative, and None bounds from above.
    """

    name: str
    expected: int | float
    here: int | float
    tolerance: float | None

    @property
    def holds(self) -> bool:
        if self.tolerance is None:
            return self.here <= self.expected
        return abs(self.here - self.expected) <= self.tolerance * self.expected


def figures(entry: ZooEntry) -> Figures:
    """The costs of an entry at its published dimensions, counted without any weights."""
    graph = build_graph(entry.spec)
    parameters = stored_params(graph)
    baseline = visited_once(entry.spec)
    return Figures(
        signature=entry.spec.text,
        parameters=parameters,
        executed_layers=graph.executed_layers(),
        cost_ratio=_cost_ratio(entry.spec, baseline),
        baseline=baseline.text,
        adapter_share=adapter_share(graph),
        expected_rounds=expected_rounds(graph),
    )


def _cost_ratio(spec: ModelSpec, other: ModelSpec) -> float:
    own = training_flops_per_token(spec, spec.context)
    return own / training_flops_per_token(other, other.context)


def claims(entry: ZooEntry, found: Figures) -> Iterator[Claim]:
    """Everything that the entry expects, beside the figures found."""
    expect = entry.expect
    tolerance = expect.parameters_tolerance
    yield Claim("parameters", expect.parameters, found.parameters, tolerance)
    if expect.executed_layers is not None:
        yield Claim("layers executed", expect.executed_layers, found.executed_layers, 0.0)
    if expect.cost_ratio is not None and entry.baseline is not None:
        name = f"training FLOPs against {expect.baseline}"
        here = _cost_ratio(entry.spec, entry.baseline)
        yield Claim(name, expect.cost_ratio, here, expect.cost_ratio_tolerance)
    if expect.max_adapter_share is not None:
        share = expect.max_adapter_share
        yield Claim("share of adapters, at most", share, found.adapter_share, None)
