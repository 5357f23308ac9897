"""What a study's folder says of its runs: the state is in the run folders, and nowhere else.

study/plan.json             the plan
study/runs/NAME/            a run folder, as rinsc train writes it
study/runs/NAME.lock        held by the worker that is at the run, with NAME.lease
study/runs/NAME.starts      how often it was begun at which step
study/runs/NAME.outcome     of a run that diverged or failed
study/runs/NAME.at-2.npy    its figure at other rounds, where rinsc study report measured it
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

from rinsc.errors import OutputError, RinscError, SpecError, plural
from rinsc.objectives import OBJECTIVES
from rinsc.spec.reading import spec_from_values, towers_from_values
from rinsc.spec.towers import AnySpec, names_towers
from rinsc.storage.files import (
    make_folder,
    parse_toml,
    read_json,
    read_regular_text,
    write_atomically,
)
from rinsc.study.lease import is_taken
from rinsc.study.members import Variant
from rinsc.study.plan import VERSION, Plan, PlannedRun
from rinsc.study.rates import Tuning
from rinsc.training.config import TrainConfig, config_from_toml
from rinsc.training.run_folder import RunFolder, check_files

State: TypeAlias = Literal["finished", "diverged", "failed", "running", "waiting"]
STATES: tuple[State, ...] = ("finished", "diverged", "failed", "running", "waiting")
PLAN_FILE, RUNS_FOLDER = "plan.json", "runs"
_RATE = re.compile(r"^learning_rate = (\S+)$", re.MULTILINE)
MOST_STARTS = 8  # at one step: a run that always ends there is given up


def _read_spec(text: str) -> AnySpec:
    values = parse_toml(text)
    if "towers" in values or names_towers(values.get("signature")):
        return towers_from_values(values)
    return spec_from_values(values)


_SEED = re.compile(r"^seed = (\d+)$", re.MULTILINE)


def _read_settings(text: str) -> TrainConfig:
    """The settings of a run. Those that differ in the seed alone are read once: reading a thousand
    would take most of the time of a status."""
    match = _SEED.search(text)
    if match is None:
        return config_from_toml(text)
    shared = _shared_settings(text[: match.start(1)] + "0" + text[match.end(1) :])
    return dataclasses.replace(shared, seed=int(match[1]))


@lru_cache(maxsize=1024)
def _shared_settings(text: str) -> TrainConfig:
    return config_from_toml(text)


def _read_runs(rows: Iterable[Mapping[str, Any]]) -> tuple[PlannedRun, ...]:
    return tuple(
        PlannedRun(
            *(str(row["name"]), str(row["variant"]), str(row["budget"]), int(row["seed"])),
            config=_read_settings(row["settings"]),
            training_flops=int(row["training_flops"]),
            trial=None if row.get("trial") is None else int(row["trial"]),
            tuned_at=None if row.get("tuned_at") is None else str(row["tuned_at"]),
        )
        for row in rows
    )


def _read_tuning(facts: Mapping[str, Any] | None) -> Tuning | None:
    if facts is None:
        return None
    rates, seeds, budgets = (tuple(facts[key]) for key in ("rates", "seeds", "budgets"))
    return Tuning(rates=rates, trials=int(facts["trials"]), seeds=seeds, budgets=budgets)


def write_plan(plan: Plan, folder: str | Path) -> Path:
    """Write the plan into the folder of a study; the same plan may be written again.

    So a damaged one is mended. Raises OutputError where another plan is there.
    """
    target = make_folder(folder) / PLAN_FILE
    if target.exists():
        try:
            is_other = read_plan(folder).digest != plan.digest
        except SpecError:  # damaged: its runs say whether it was this one
            runs = StudyFolder(Path(folder)).begun()
            is_other = bool(runs) and runs.isdisjoint(run.name for run in plan.jobs)
        if is_other:
            message = "another plan is in this folder"
            hint = "choose another folder, or repeat the study of this one with rinsc study run"
            raise OutputError("another-study", message, place=str(folder), hint=hint)
    write_atomically(target, json.dumps(plan.facts(), indent=1))
    return target


def read_plan(folder: str | Path) -> Plan:
    """The plan that was written into a folder; raises SpecError where there is none or a damaged
    one."""
    path = Path(folder) / PLAN_FILE
    hint = "write one with rinsc study plan STUDY.toml -o FOLDER"
    try:
        facts = read_json(path)
        variants = tuple(
            Variant(item["name"], _read_spec(item["model"]), int(item["parameters"]))
            for item in facts["variants"]
        )
        if facts["version"] > VERSION:
            raise ValueError("a later rinsc wrote it")
        title, baseline, data, match = (facts[k] for k in ("title", "baseline", "data", "match"))
        plan = Plan(
            *(title, baseline, data, match, variants),
            runs=_read_runs(facts["runs"]),
            notes=tuple(facts["notes"]),
            tuning=_read_tuning(facts.get("tuning")),
            trials=_read_runs(facts.get("trials", ())),
        )
        if plan.digest != facts["digest"]:
            raise ValueError("its runs are not those of its digest")
    except FileNotFoundError:
        raise SpecError(
            "no-study", "there is no study here", place=str(folder), hint=hint
        ) from None
    except (OSError, ValueError, TypeError, LookupError, RinscError) as error:
        message = f"the plan is damaged: {error!s:.100}"
        raise SpecError("damaged-study", message, place=str(path), hint=hint) from None
    return plan


@dataclass(frozen=True)
class RunState:
    """Where a run is. ``figure`` is its main figure once it is finished, and ``message`` says what
    went wrong where something did. ``learning_rate`` is that of a finished run whose trials decide
    it."""

    run: PlannedRun
    state: State
    figure: float | None = None
    training_flops: int = 0
    seconds: float = 0.0
    message: str = ""
    learning_rate: float | None = None

    @property
    def loss(self) -> float:
        """The figure, or what is missing from 1 where more is better; nan without one."""
        if self.figure is None or self.state != "finished":
            return math.nan
        less_is_better = OBJECTIVES[self.run.config.objective].figures[0].less_is_better
        return self.figure if less_is_better else 1 - self.figure

    @property
    def is_over(self) -> bool:
        return self.state in ("finished", "diverged", "failed")

    @property
    def words(self) -> str:
        """Which run is in which state, and why."""
        reason = f": {self.message}" if self.message else ""
        return f"{self.run.words}, {self.state}{reason}"

    def facts(self) -> dict[str, object]:
        """The state as plain data."""
        run = self.run
        return {
            **{"run": run.name, "variant": run.variant, "budget": run.budget, "seed": run.seed},
            "trial": run.trial,
            **{"state": self.state, "figure": self.figure, "message": self.message or None},
        }


@dataclass(frozen=True)
class StudyFolder:
    """The folder of a study, and the paths of a run in it."""

    path: Path

    def run(self, run: PlannedRun) -> RunFolder:
        return RunFolder(self.path / RUNS_FOLDER / run.name)

    def begun(self) -> set[str]:
        """The names of the run folders that are there."""
        runs = self.path / RUNS_FOLDER
        return {path.name for path in runs.iterdir() if path.is_dir()} if runs.is_dir() else set()

    def lock(self, run: PlannedRun) -> Path:
        return self._beside(run, "lock")

    def outcome(self, run: PlannedRun) -> Path:
        return self._beside(run, "outcome")

    def starts(self, run: PlannedRun) -> Path:
        return self._beside(run, "starts")

    def at_rounds(self, run: PlannedRun, rounds: int) -> Path:
        """The figure of the run at other rounds than its own: `rinsc.study.rounds`."""
        return self._beside(run, f"at-{rounds}.npy")

    def _beside(self, run: PlannedRun, suffix: str) -> Path:
        return self.path / RUNS_FOLDER / f"{run.name}.{suffix}"

    def end(self, run: PlannedRun, state: State, message: str) -> None:
        """Write down that a run is over without a result."""
        write_atomically(self.outcome(run), json.dumps({"state": state, "message": message}))

    def is_over(self, run: PlannedRun) -> bool:
        """Whether something was written of its end, which may be damaged."""
        return self.run(run).result.is_file() or self.outcome(run).is_file()

    def forget_failure(self, run: PlannedRun) -> None:
        """Let a run that failed be tried again: what it failed of may be mended by now.

        A damaged result is put aside, and written anew by the run that goes on.
        """
        result = self.run(run).result
        if result.is_file() and run_state(self, run).state == "failed":
            with suppress(OSError):  # then it stays failed
                result.replace(result.with_name(result.name + ".damaged"))
        if self.outcome(run).is_file() and run_state(self, run).state == "failed":
            self.outcome(run).unlink(missing_ok=True)
            self.starts(run).unlink(missing_ok=True)

    def starts_text(self, run: PlannedRun) -> bytes:
        """What is written of its starts, which changes whenever it begins."""
        try:
            return self.starts(run).read_bytes()
        except OSError:
            return b""

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
    run_folder = folder.run(run)
    if run_folder.result.is_file():
        return _finished(run_folder, run)
    outcome = folder.outcome(run)
    if outcome.is_file():
        try:
            facts = read_json(outcome)
            state, message = cast(State, facts["state"]), str(facts["message"])
            return RunState(run, state if state in STATES else "failed", message=message)
        except (OSError, ValueError, LookupError, TypeError) as error:
            return RunState(run, "failed", message=f"its outcome is damaged: {error!s:.80}")
    return RunState(run, "running" if is_taken(folder.lock(run)) else "waiting")


def _finished(run_folder: RunFolder, run: PlannedRun) -> RunState:
    """A run with a result, which is checked: it is of this run, and what was written."""
    try:
        check_files(run_folder, run_folder.result)
        facts: Mapping[str, Any] = read_json(run_folder.result)
        if (facts["seed"], facts["steps"]) != (run.seed, run.config.steps):
            raise ValueError("it is of another run")
        figure = float(facts[OBJECTIVES[run.config.objective].figure])
        flops, seconds = int(facts["training_flops"]), float(facts["seconds"])
    except RinscError as error:
        return RunState(run, "failed", message=error.message)
    except (OSError, ValueError, LookupError, TypeError) as error:
        return RunState(run, "failed", message=f"its result is damaged: {error!s:.80}")
    state: State = "finished" if math.isfinite(figure) else "diverged"
    rate = None if run.tuned_at is None else _learning_rate(run_folder)
    return RunState(run, state, figure, flops, seconds, learning_rate=rate)


def _learning_rate(run_folder: RunFolder) -> float | None:
    """What the settings of a run say, which are not parsed: a study has many."""
    try:
        match = _RATE.search(read_regular_text(run_folder.config))
        return None if match is None else float(match[1])
    except (OSError, ValueError):
        return None


def counted(states: list[RunState]) -> dict[State, int]:
    """How many runs are in each state."""
    counts = Counter(run.state for run in states)
    return {state: counts[state] for state in STATES}


def states_lines(states: Sequence[RunState]) -> list[str]:
    """How many trials and runs are in each state."""
    trials = [state for state in states if state.run.trial is not None]
    runs = [state for state in states if state.run.trial is None]
    return [
        f"{plural(len(group), noun)}: "
        + ", ".join(f"{count} {state}" for state, count in counted(group).items() if count)
        for noun, group in (("trial", trials), ("run", runs))
        if group
    ]


def lines_of_failures(states: Sequence[RunState]) -> list[str]:
    """The runs that went wrong, then the trials that failed: to diverge is a result of a trial."""
    runs = [state for state in states if state.run.trial is None]
    lines = [state.words for state in runs if state.state in ("diverged", "failed")]
    trials = (state for state in states if state.run.trial is not None)
    return lines + [state.words for state in trials if state.state == "failed"]
