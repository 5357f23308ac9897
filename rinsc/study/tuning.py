"""The learning rates that the trials of a study come to, and where every run is.

A rate follows from the results of the trials of its own variant, and from nothing else. So it is
kept nowhere: whoever needs it works it out, and the same results give the same rate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from rinsc.errors import plural
from rinsc.study.folder import RunState, StudyFolder, run_state
from rinsc.study.plan import Plan, PlannedRun
from rinsc.study.rates import Measured, Tuning, chosen_rate, loss_at, next_rate


@dataclass(frozen=True)
class Trial:
    """A rate and the mean loss of its runs, infinite where one diverged. What earlier trials
    decide, or runs that are not over, is None."""

    rate: float | None
    loss: float | None


@dataclass(frozen=True)
class TunedRate:
    """The learning rate of a variant, tuned at a budget.

    ``rate`` is None until all trials are over, and where none can be chosen; ``message`` then says
    why. ``at_edge`` says that the best trial was the last one on a side, so that a better rate may
    lie beyond. ``penalty`` is the loss at the baseline's rate less the loss at ``rate``, by the
    trials of this variant; None where its trials do not reach that rate.
    """

    variant: str
    budget: str
    trials: tuple[Trial, ...]
    rate: float | None = None
    at_edge: bool = False
    penalty: float | None = None
    message: str = ""

    @property
    def measured(self) -> list[Measured]:
        return [(t.rate, t.loss) for t in self.trials if t.rate is not None and t.loss is not None]


def tuned_rates(folder: StudyFolder, plan: Plan) -> tuple[TunedRate, ...]:
    """In the order of the variants, for each budget of the tuning; none where one rate is for
    all."""
    if plan.tuning is None:
        return ()
    rates = _rates(plan.tuning, [run_state(folder, run) for run in plan.trials])
    return tuple(
        _with_penalty(rates[variant.name, budget], rates[plan.baseline, budget])
        for variant in plan.variants
        for budget in plan.tuning.budgets
    )


@dataclass(frozen=True)
class Decisions:
    """What the trials of a study have decided so far, by variant and budget."""

    rates: Mapping[tuple[str, str], TunedRate]

    def is_ready(self, run: PlannedRun) -> bool:
        """Whether the rate of a run is known."""
        return run.tuned_at is None or self.rate(run) is not None

    def is_hopeless(self, run: PlannedRun) -> bool:
        """Whether the rate of a run will never be known."""
        return not self.is_ready(run) and bool(self.message(run))

    def rate(self, run: PlannedRun) -> float | None:
        """The rate of a run that trials decide."""
        search = self.rates.get((run.variant, run.tuned_at or ""))
        if search is None:
            return None
        return search.rate if run.trial is None else search.trials[run.trial].rate

    def message(self, run: PlannedRun) -> str:
        """Why the rate of a run is not known."""
        search = self.rates.get((run.variant, run.tuned_at or ""))
        return "" if search is None else search.message

    def state(self, state: RunState) -> RunState:
        """The state, failed where the run waits for a rate that no trial can tell, and where it was
        trained at another than its trials give."""
        rate = self.rate(state.run)
        if rate is not None and state.learning_rate not in (None, rate):
            message = _other_rate(state, rate)
            return dataclasses.replace(state, state="failed", figure=None, message=message)
        if state.state != "waiting" or not self.is_hopeless(state.run):
            return state
        return dataclasses.replace(state, state="failed", message=self.message(state.run))


def decisions(folder: StudyFolder, plan: Plan) -> Decisions:
    """What the trials of a study have decided so far."""
    return _decisions(plan, [run_state(folder, run) for run in plan.trials])


def _decisions(plan: Plan, states: Iterable[RunState]) -> Decisions:
    return Decisions({} if plan.tuning is None else _rates(plan.tuning, states))


def state_of(folder: StudyFolder, plan: Plan, run: PlannedRun) -> RunState:
    """Where one run is; failed where its rate cannot be known."""
    state = run_state(folder, run)
    if state.state != "waiting" or run.tuned_at is None:
        return state
    return _decisions(plan, (run_state(folder, trial) for trial in trials_of(plan, run))).state(
        state
    )


def resolved(folder: StudyFolder, plan: Plan, run: PlannedRun) -> PlannedRun | None:
    """The run with the rate that it trains at; None as long as that is not decided, or where it
    never will be."""
    if run.tuned_at is None or plan.tuning is None:
        return run
    rate = _decisions(plan, [run_state(folder, trial) for trial in trials_of(plan, run)]).rate(run)
    if rate is None:
        return None
    config = dataclasses.replace(run.config, learning_rate=rate)
    return dataclasses.replace(run, config=config)


def trials_of(plan: Plan, run: PlannedRun) -> list[PlannedRun]:
    """The trials that decide the rate of a run, in their order."""
    before = math.inf if run.trial is None else run.trial
    return [
        trial
        for trial in plan.trials
        if (trial.variant, trial.budget) == (run.variant, run.tuned_at)
        and (trial.trial or 0) < before
    ]


def job_states(folder: StudyFolder, plan: Plan) -> list[RunState]:
    """Where every trial and every run is, in the order of the plan."""
    states = [run_state(folder, run) for run in plan.jobs]
    decided = _decisions(plan, states[: len(plan.trials)])
    return [decided.state(state) for state in states]


def study_states(folder: StudyFolder, plan: Plan) -> list[RunState]:
    """Where every run is that is compared with others, in the order of the plan."""
    return job_states(folder, plan)[len(plan.trials) :]


def _rates(tuning: Tuning, states: Iterable[RunState]) -> dict[tuple[str, str], TunedRate]:
    """What the trials come to, by variant and budget."""
    by_search: dict[tuple[str, str], dict[int, list[RunState]]] = {}
    for state in states:
        run = state.run
        search = by_search.setdefault((run.variant, run.budget), {})
        search.setdefault(run.trial or 0, []).append(state)
    return {key: _search(tuning, *key, trials) for key, trials in by_search.items()}


def _search(
    tuning: Tuning, variant: str, budget: str, states: Mapping[int, list[RunState]]
) -> TunedRate:
    """The trials of a variant in their order: each rate from the losses of those before it."""
    trials: list[Trial] = []
    measured: list[Measured] = []
    message = ""
    for number in range(tuning.trials):
        rate = tuning.rates[number] if number < len(tuning.rates) else None
        if rate is None and len(measured) == number:
            rate = next_rate(measured)
        own = states.get(number, [])
        failed = [state for state in own if state.state == "failed"]
        others = [s for s in own if rate is not None and s.learning_rate not in (None, rate)]
        if others and rate is not None and not message:
            message = f"a trial of its learning rate: {_other_rate(others[0], rate)}"
        if failed and not message:
            at = "" if rate is None else f" at {rate:g}"
            message = f"the trial of its learning rate{at} failed: {failed[0].message}"
        loss = _mean_loss(own, len(tuning.seeds)) if rate is not None else None
        trials.append(Trial(rate, loss))
        if rate is not None and loss is not None:
            measured.append((rate, loss))
    tuned = TunedRate(variant, budget, tuple(trials), message=message)
    if message or len(measured) < tuning.trials:
        return tuned
    choice = chosen_rate(measured)
    if choice is None:
        count, lowest = plural(tuning.trials, "trial"), min(rate for rate, _ in measured)
        message = f"its learning rate is not known: all {count} diverged, down to {lowest:g}"
        return dataclasses.replace(tuned, message=message)
    return dataclasses.replace(tuned, rate=choice.rate, at_edge=choice.is_at_edge)


def _other_rate(state: RunState, rate: float) -> str:
    """Of a run that was finished before the results of its trials changed."""
    return (
        f"it was trained at {state.learning_rate:g}, and its trials now give {rate:g}: remove its "
        f"folder {state.run.name} to train it again"
    )


def _mean_loss(states: list[RunState], count: int) -> float | None:
    if any(state.state == "diverged" for state in states):
        return math.inf if all(state.is_over for state in states) else None
    if len(states) < count or any(state.state != "finished" for state in states):
        return None
    return math.fsum(state.loss for state in states) / count


def _with_penalty(tuned: TunedRate, baseline: TunedRate) -> TunedRate:
    if tuned.rate is None or baseline.rate is None:
        return tuned
    at_own, at_baseline = (loss_at(tuned.measured, rate) for rate in (tuned.rate, baseline.rate))
    if at_own is None or at_baseline is None:
        return tuned
    return dataclasses.replace(tuned, penalty=max(0.0, at_baseline - at_own))
