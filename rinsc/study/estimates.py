"""What a study needs before it runs: memory of the largest step of each variant, and hours.

Memory is that of the cost model. Hours follow from a speed that you give, or from finished runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rinsc.cost import cost_report
from rinsc.cost.memory import memory
from rinsc.errors import RinscError, UsageError, plural, setting
from rinsc.graph import TowersGraph
from rinsc.scalars import Table, real, rounded_bytes, rounded_count, rounded_flops
from rinsc.study.folder import RunState
from rinsc.study.members import Variant
from rinsc.study.plan import Plan, PlannedRun
from rinsc.training.config import TrainConfig


@dataclass(frozen=True)
class Estimate:
    """What a variant needs: bytes of a training step, None where no estimate is, and the hours of
    all its ``runs`` one after the other, None without a speed."""

    variant: str
    runs: tuple[PlannedRun, ...]
    memory_bytes: int | None
    training_flops: int
    hours: float | None

    def facts(self) -> dict[str, object]:
        """The estimate as plain data."""
        needs = {"memory_bytes": self.memory_bytes, "hours": self.hours}
        return {"variant": self.variant, "training_flops": self.training_flops, **needs}


def estimates(plan: Plan, flops_per_second: float | None = None) -> tuple[Estimate, ...]:
    """An estimate for each variant; raises UsageError for a speed that is none."""
    speed = None if flops_per_second is None else real(flops_per_second)
    if flops_per_second is not None and not (speed is not None and 0 < speed < float("inf")):
        name = setting("flops_per_second")
        message = f"{name} must be a number above 0, not {flops_per_second!r:.40}"
        raise UsageError("usage", message, hint="write 2e11 for 200 GFLOP a second")
    by_variant: dict[str, list[PlannedRun]] = {}
    for run in plan.jobs:
        by_variant.setdefault(run.variant, []).append(run)
    needs = []
    for variant in plan.variants:
        jobs = by_variant[variant.name]
        flops = sum(run.training_flops for run in jobs)
        hours = None if speed is None else flops / speed / 3600
        needs.append(
            Estimate(variant.name, tuple(jobs), _memory(variant, jobs[0].config), flops, hours)
        )
    return tuple(needs)


def _memory(variant: Variant, config: TrainConfig) -> int | None:
    """Weights, gradients, the optimizer's moments and what is kept for the backward pass."""
    scheduled = max((rounds for _, rounds in config.rounds_schedule), default=None)
    rounds = config.rounds if scheduled is None else scheduled
    batch = config.batch_sequences // config.accumulate
    try:
        if isinstance(variant.graph, TowersGraph):  # whose activations are all kept, here
            report = cost_report(variant.graph, batch=batch, rounds=rounds).memory
        else:
            report = memory(
                variant.graph,
                config.sequence_length,
                batch=batch,
                rounds=rounds,
                checkpointing=config.checkpointing,
            )
    except RinscError:  # rounds that one of several repeats cannot run are told elsewhere
        return None
    state_bytes = report.weight_bytes + report.gradient_bytes + report.optimizer_bytes
    return state_bytes + report.activation_bytes


def hours_left(states: Iterable[RunState]) -> float | None:
    """Hours of one worker for the runs that are not over, at the speed of those that are finished;
    None before there is one."""
    states = list(states)
    finished = [state for state in states if state.state == "finished"]
    seconds = sum(state.seconds for state in finished)
    flops = sum(state.training_flops for state in finished)
    left = sum(state.run.training_flops for state in states if not state.is_over)
    if not (seconds > 0 and flops > 0):
        return None
    return left / flops * seconds / 3600


def plan_table(plan: Plan, needs: Iterable[Estimate]) -> Table:
    """A row for each variant: its size, its runs and what they need."""
    rows = []
    for variant, estimate in zip(plan.variants, needs, strict=True):
        steps = [run.config.steps for run in estimate.runs if run.trial is None]
        span = "" if min(steps) == max(steps) else f" to {max(steps):,}"
        memory_text = "-" if estimate.memory_bytes is None else rounded_bytes(estimate.memory_bytes)
        rows.append(
            (
                *(variant.name, rounded_count(variant.parameters), memory_text),
                *(f"{len(estimate.runs) - len(steps):,}", f"{len(steps):,}"),
                *(f"{min(steps):,}{span}", rounded_flops(estimate.training_flops)),
                "" if estimate.hours is None else hours_text(estimate.hours),
            )
        )
    heads = ("variant", "parameters", "memory", "trials", "runs", "steps", "training", "hours")
    empty = ({3} if not plan.trials else set()) | (
        {7} if not any(row[7] for row in rows) else set()
    )
    shown = [column for column in range(len(heads)) if column not in empty]
    return Table([heads[c] for c in shown], [[row[c] for c in shown] for row in rows])


def hours_text(hours: float) -> str:
    """For a column of hours.

    >>> [hours_text(hours) for hours in (1e-4, 0.25, 2.13, 1200)]
    ['<0.01', '0.25', '2.1', '1,200']
    """
    if hours < 0.01:
        return "<0.01"
    return f"{hours:,.2g}" if hours < 10 else f"{hours:,.0f}"


def time_text(hours: float) -> str:
    """For a sentence, in the unit that a person would say.

    >>> [time_text(hours) for hours in (1e-6, 0.01, 0.55, 2.13, 1200)]
    ['1 second', '36 seconds', '33 minutes', '2.1 hours', '1,200 hours']
    """
    if hours < 1 / 60:
        return plural(max(1, round(hours * 3600)), "second")
    return plural(round(hours * 60), "minute") if hours < 1 else f"{hours_text(hours)} hours"
