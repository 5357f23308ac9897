"""What the runs of each variant come to on average, where a ranking is not to be had, too."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rinsc.objectives import OBJECTIVES, Figure
from rinsc.study.folder import RunState
from rinsc.study.plan import Plan


@dataclass(frozen=True)
class Mean:
    """Of the finished runs of one variant at one budget; of ``loss`` less is better."""

    training_flops: float
    loss: float
    runs: int


Means: TypeAlias = Mapping[tuple[str, str], Mean]  # by variant and budget


def figure_of(plan: Plan) -> Figure:
    """What the runs of a plan are compared by."""
    return OBJECTIVES[plan.runs[0].config.objective].figures[0]


def run_loss(state: RunState) -> float:
    """What is compared, of which less is better; nan of a run without a figure."""
    if state.figure is None:
        return float("nan")
    return OBJECTIVES[state.run.config.objective].figures[0].loss(state.figure)


def means_of(states: Sequence[RunState], foreign: Collection[str]) -> Means:
    """Means by variant and budget, without the runs whose names are ``foreign``."""
    groups: dict[tuple[str, str], list[RunState]] = {}
    for state in states:
        if state.state == "finished" and state.run.name not in foreign:
            groups.setdefault((state.run.variant, state.run.budget), []).append(state)
    return {
        key: Mean(
            sum(float(run.training_flops) for run in runs) / len(runs),
            sum(map(run_loss, runs)) / len(runs),
            len(runs),
        )
        for key, runs in groups.items()
    }


def mean_heads(plan: Plan) -> tuple[str, ...]:
    """Of the columns of `mean_rows`."""
    return "variant", "runs", "parameters", figure_of(plan).loss_name, "gap"


def mean_rows(plan: Plan, means: Means, budget: str) -> list[tuple[str, ...]]:
    """A row for each variant at a budget, least loss first."""
    own = {name: mean for (name, at), mean in means.items() if at == budget}
    base = own.get(plan.baseline)
    return [
        (
            *(name, str(mean.runs), f"{plan.variant(name).parameters:,}", f"{mean.loss:.4f}"),
            "" if base is None else f"{mean.loss - base.loss:+.4f}",
        )
        for name, mean in sorted(own.items(), key=lambda item: (item[1].loss, item[0]))
    ]


def mean_facts(means: Means, budget: str) -> dict[str, dict[str, float]]:
    """The means at a budget as plain data."""
    return {
        name: {"loss": mean.loss, "runs": mean.runs}
        for (name, at), mean in means.items()
        if at == budget
    }
