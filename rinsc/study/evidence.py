"""What the run folders of a study hold beside their results: loss curves, versions, data.

A run is compared with the others only where it is what the plan says, on the data that they have.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from rinsc.errors import RinscError, listed, plural
from rinsc.spec import model_spec, spec_to_toml
from rinsc.storage.files import parse_json, read_json, read_regular, read_regular_text, text_digest
from rinsc.study.folder import RUNS_FOLDER, RunState, StudyFolder, run_state
from rinsc.study.plan import Plan, PlannedRun
from rinsc.training.config import config_from_toml
from rinsc.training.metrics import metrics_from_json
from rinsc.training.run_folder import RunFolder

CURVE_POINTS, LINES_OF_A_POINT = 40, 8  # of a loss curve; lines of metrics that are averaged
MOST_LISTED = 4

Points: TypeAlias = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Evidence:
    """``curves`` has training FLOPs and losses in nats of each run, by its name, averaged over
    stretches of steps. ``versions`` has what runs were trained with, and how many each. ``foreign``
    has the runs that are not to be compared, by their names. ``notes`` tell what is amiss."""

    curves: Mapping[str, Points]
    versions: tuple[tuple[Mapping[str, str], int], ...]
    foreign: frozenset[str]
    notes: tuple[str, ...]


def read_evidence(folder: StudyFolder, plan: Plan, states: Sequence[RunState]) -> Evidence:
    """Read what the folders of all runs that are over have."""
    notes, foreign = _strangers(folder, plan), set()
    curves, versions, data = {}, Counter[str](), {}
    for state in states:
        if not state.is_over:
            continue
        run, run_folder = state.run, folder.run(state.run)
        curves[run.name] = loss_curve(run_folder.metrics)
        if state.state != "finished":
            continue
        reason = _difference(run_folder, plan, run)
        if reason is not None:
            foreign.add(run.name)
            notes.append(f"{run.words}: left out, as {reason}")
            continue
        versions[json.dumps(_record(run_folder.environment), sort_keys=True)] += 1
        digest = _data_digest(run_folder)
        if digest:
            data[run.name] = digest
    usual, count = _most_common(data.values())
    others = [state.run for state in states if data.get(state.run.name, usual) != usual]
    if others:
        foreign |= {run.name for run in others}
        names = listed([run.words for run in others], MOST_LISTED)
        notes.append(
            f"{plural(len(others), 'run')} left out, with other data than the {count} others: "
            f"{names}"
        )
    foreign |= _of_foreign_trials(folder, plan, usual, notes)
    every = tuple((parse_json(text), count) for text, count in versions.most_common())
    if len(every) > 1:
        notes.append(f"the runs were trained with {len(every)} different sets of versions")
    return Evidence(curves, every, frozenset(foreign), tuple(notes))


def _of_foreign_trials(
    folder: StudyFolder, plan: Plan, data_of_runs: str | None, notes: list[str]
) -> set[str]:
    """The runs whose learning rate was not tuned as that of the others: a trial is another run than
    the planned one, or had other data."""
    reasons: dict[tuple[str, str], str] = {}
    data: dict[PlannedRun, str] = {}
    for run in plan.trials:
        run_folder = folder.run(run)
        if run_state(folder, run).state != "finished":
            continue
        reason = _difference(run_folder, plan, run)
        if reason is not None:
            reasons.setdefault((run.variant, run.budget), reason)
        elif digest := _data_digest(run_folder):
            data[run] = digest
    usual, _ = _most_common(data.values())
    for run, digest in data.items():
        if digest != usual:
            reason = "it had other data than the trials of others"
            reasons.setdefault((run.variant, run.budget), reason)
    if usual is not None and data_of_runs is not None and usual != data_of_runs:
        notes.append("the learning rates were tuned on other data than the runs have")
    for (variant, budget), reason in reasons.items():
        notes.append(
            f"{variant}: left out where its learning rate is that of trials at {budget}: of one, "
            f"{reason}"
        )
    return {run.name for run in plan.runs if (run.variant, run.tuned_at) in reasons}


def _most_common(digests: Iterable[str]) -> tuple[str | None, int]:
    """The one that most have, and how many; None of none."""
    return next(iter(Counter[str | None](digests).most_common(1)), (None, 0))


def loss_curve(metrics: Path) -> Points:
    """Training FLOPs and loss over a run, as means of equal stretches; empty without metrics."""
    try:
        lines = [line for line in read_regular(metrics).split(b"\n") if line.strip()]
    except OSError:
        return ()
    most = CURVE_POINTS * LINES_OF_A_POINT
    chosen = lines[:: max(1, -(-len(lines) // most))]
    points = [
        (float(line.training_flops), line.loss_nats)
        for line in map(metrics_from_json, chosen)
        if line is not None and math.isfinite(line.loss_nats) and line.training_flops > 0
    ]
    size = max(1, -(-len(points) // CURVE_POINTS))
    stretches = (points[index : index + size] for index in range(0, len(points), size))
    return tuple(
        (sum(x for x, _ in stretch) / len(stretch), sum(y for _, y in stretch) / len(stretch))
        for stretch in stretches
    )


def _strangers(folder: StudyFolder, plan: Plan) -> list[str]:
    """A line about run folders that the plan does not know."""
    known = {run.name for run in plan.jobs}
    others = sorted(name for name in folder.begun() - known if not name.startswith("."))
    if not others:
        return []
    return [
        f"{plural(len(others), 'folder')} in {RUNS_FOLDER} not of this plan, and left out: "
        f"{listed(others, MOST_LISTED)}"
    ]


def _difference(folder: RunFolder, plan: Plan, run: PlannedRun) -> str | None:
    """Why a finished run is not the planned one; None where it is. Its rate may be a tuned one."""
    try:
        spec = plan.variant(run.variant).spec
        is_same = read_regular_text(folder.model_spec) == spec_to_toml(spec)
        if not is_same and model_spec(folder.model_spec) != spec:
            return "it is of another model"
        config = config_from_toml(read_regular_text(folder.config))
    except (OSError, ValueError, RinscError):
        return "its model or settings cannot be read"
    if dataclasses.replace(config, learning_rate=run.config.learning_rate) != run.config:
        return "it was trained with other settings"
    return None


def _data_digest(folder: RunFolder) -> str | None:
    """Of what is written of the data of a run; None where nothing is."""
    record = _record(folder.data_record)
    return text_digest(json.dumps(record, sort_keys=True)) if record else None


def _record(path: Path) -> Mapping[str, str]:
    try:
        record = read_json(path)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}
