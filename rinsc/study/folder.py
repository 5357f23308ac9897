"""What a study's folder says of its runs: the state is in the run folders, and nowhere else.

study/plan.json             the plan
study/runs/NAME/            a run folder, as rinsc train writes it
study/runs/NAME.lock        held by the worker that is at the run
study/runs/NAME.starts      how often it was begun at which step
study/runs/NAME.outcome     of a run that diverged or failed
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from rinsc.errors import RinscError
from rinsc.objectives import OBJECTIVES
from rinsc.storage.files import is_held, read_json, write_atomically
from rinsc.study.plan import RUNS_FOLDER, Plan, PlannedRun
from rinsc.training.run_folder import RunFolder, check_files

State: TypeAlias = Literal["finished", "diverged", "failed", "running", "waiting"]
STATES: tuple[State, ...] = ("finished", "diverged", "failed", "running", "waiting")
MOST_STARTS = 8  # at one step: a run that always ends there is given up


@dataclass(frozen=True)
class RunState:
    """Where a run is. ``figure`` is its main figure once it is finished, and ``message`` says what
    went wrong where something did."""

    run: PlannedRun
    state: State
    figure: float | None = None
    training_flops: int = 0
    seconds: float = 0.0
    message: str = ""

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "diverged", "failed")


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study, and the paths of a run in it."""

    path: Path

    def run(self, run: PlannedRun) -> RunFolder:
        return RunFolder(self.path / RUNS_FOLDER / run.name)

    def lock(self, run: PlannedRun) -> Path:
        return self._beside(run, "lock")

    def outcome(self, run: PlannedRun) -> Path:
        return self._beside(run, "outcome")

    def starts(self, run: PlannedRun) -> Path:
        return self._beside(run, "starts")

    def _beside(self, run: PlannedRun, suffix: str) -> Path:
        return self.path / RUNS_FOLDER / f"{run.name}.{suffix}"

    def end(self, run: PlannedRun, state: State, message: str) -> None:
        """Write down that a run is over without a result."""
        write_atomically(self.outcome(run), json.dumps({"state": state, "message": message}))

    def count_start(self, run: PlannedRun, step: int) -> int:
        """Write down that a run begins at ``step``; returns how often it now has."""
        path = self.starts(run)
        try:
            begun = read_json(path)
            count = begun["count"] if begun["step"] == step else 0
        except (OSError, ValueError, LookupError, TypeError):
            count = 0
        write_atomically(path, json.dumps({"step": step, "count": count + 1}))
        return int(count) + 1


def run_state(folder: StudyFolder, run: PlannedRun) -> RunState:
    """Where one run is."""
    place = folder.run(run)
    if place.result.is_file():
        return _finished(place, run)
    outcome = folder.outcome(run)
    if outcome.is_file():
        try:
            facts = read_json(outcome)
            state, message = cast(State, facts["state"]), str(facts["message"])
            return RunState(run, state if state in STATES else "failed", message=message)
        except (OSError, ValueError, LookupError, TypeError) as error:
            return RunState(run, "failed", message=f"its outcome is damaged: {error!s:.80}")
    lock = folder.lock(run)
    return RunState(run, "running" if lock.exists() and is_held(lock) else "waiting")


def _finished(place: RunFolder, run: PlannedRun) -> RunState:
    """A run with a result, which is checked: it is of this run, and what was written."""
    try:
        check_files(place, place.result)
        facts: Mapping[str, Any] = read_json(place.result)
        if (facts["seed"], facts["steps"]) != (run.seed, run.config.steps):
            raise ValueError("it is of another run")
        figure = float(facts[OBJECTIVES[run.config.objective].figure])
        flops, seconds = int(facts["training_flops"]), float(facts["seconds"])
    except RinscError as error:
        return RunState(run, "failed", message=error.message)
    except (OSError, ValueError, LookupError, TypeError) as error:
        return RunState(run, "failed", message=f"its result is damaged: {error!s:.80}")
    state: State = "finished" if math.isfinite(figure) else "diverged"
    return RunState(run, state, figure, flops, seconds)


def study_states(folder: StudyFolder, plan: Plan) -> list[RunState]:
    """Where every run is, in the order of the plan."""
    return [run_state(folder, run) for run in plan.runs]


def counted(states: list[RunState]) -> dict[State, int]:
    """How many runs are in each state."""
    counts = Counter(each.state for each in states)
    return {state: counts[state] for state in STATES}
