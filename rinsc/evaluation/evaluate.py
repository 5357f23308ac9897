"""`rinsc.evaluate`: a trained model on held-out data and on tasks, at several numbers of rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from rinsc.errors import DataError, UsageError, option_values, require_type, setting
from rinsc.evaluation.harness import find_tasks, score_tasks, trained_model
from rinsc.evaluation.measure import Measured, read_data, read_pair, reads_alike
from rinsc.evaluation.report import EvalReport, EvalRow
from rinsc.evaluation.verdict import (
    judge,
    judged_rounds,
    require_margin,
    require_repeat,
)
from rinsc.graph import Rounds, rounds_up_to, several_rounds
from rinsc.objectives import Quality
from rinsc.plots import require_picture
from rinsc.progress import Observer, Progress, ShownProgress
from rinsc.scalars import whole
from rinsc.storage.files import check_writable
from rinsc.training.devices import find_devices
from rinsc.training.finished import FinishedRun, trained_run


def evaluate(
    run: str | Path | FinishedRun,
    *,
    rounds: Rounds | Sequence[Rounds] = None,
    data: str | None = None,
    windows: int | None = None,
    baseline: str | Path | FinishedRun | None = None,
    margin: float = 0.0,
    tasks: Sequence[str] = (),
    include: str | Path | None = None,
    limit: int | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    output: str | Path | None = None,
    progress: Progress | None = None,
) -> EvalReport:
    """Evaluate a run, one of its checkpoints or a saved model, as ``rinsc eval`` does.

    ``rounds`` are one number or several, for every repeat or by name, or a text such as "1..3" or
    "A=1..3"; by default those up to training's. ``data`` is another corpus, of which at most so
    many ``windows`` are read.
    ``baseline`` is a run to compare with, where one round may be worse by the ``margin`` in bits
    per byte. ``tasks`` are those of lm-evaluation-harness, of which ``include`` is a folder with
    more and ``limit`` the most examples of each. ``output`` is a picture, with the figures beside
    it as JSON. ``progress`` is told what is being done, by default on
    standard error or below the cell of a notebook.
    """
    require_margin(margin)
    if whole(windows) is None:
        require_type("windows", windows, (), "windows=64", optional=True)
    shown = ShownProgress() if progress is None else progress
    found = run if isinstance(run, FinishedRun) else trained_run(Path(run))
    every = _asked_rounds(found, rounds)
    other = baseline
    if other is not None and not isinstance(other, FinishedRun):
        other = trained_run(Path(other))
    if output is not None:
        _check_output(Path(output), found, other)
    if other is not None:
        _check_pair(found, other, data, windows)
    if tasks:
        _require_text(found)
    where = find_devices(device).device
    known = find_tasks(tasks, found.tokenizer(), _path(include)) if tasks else None
    if other is None:
        read, evaluated = read_data(found, data, windows, shown), every
    else:
        read, read_by_other = read_pair(found, other, data, windows, shown)
        evaluated = [*every, *judged_rounds(found, other), other.rounds]
    with shown.task("measuring on held-out data") as observe:
        passes = _Passes(len({tuple(rounds.items()) for rounds in evaluated}), observe)
        ours = Measured(found, read, where, passes)
        report = EvalReport(
            run=str(found.path),
            steps=found.steps,
            state=found.words,
            signature=found.signature,
            text=read.name,
            held_out=read.part,
            windows=len(read.held_out),
            sequence_length=found.sequence_length,
            precision=found.config.precision,
            rows=tuple(_row(found, rounds, ours.quality(rounds)) for rounds in every),
            objective=found.config.objective,
        )
        if other is not None:
            theirs = Measured(other, read_by_other, where, passes)
            report = _with_baseline(report, found, other, ours, theirs, margin)
    if known is not None:
        model, tokenizer, rows = trained_model(found, where), found.tokenizer(), []
        with shown.task("running the tasks") as observe:
            for row in report.rows:
                asked = row.rounds or None
                scores = score_tasks(model, tokenizer, tasks, known, rounds=asked, limit=limit)
                rows.append(replace(row, scores=scores))
                observe(len(rows) / len(report.rows))
        report = replace(report, rows=tuple(rows))
    if output is not None:
        report.save(Path(output))
    return report


class _Passes:
    """Of the windows done in one pass over the text, the share of all passes."""

    def __init__(self, passes: int, observe: Observer) -> None:
        self._passes, self._observe = passes, observe
        self._before = 0

    def __call__(self, done: int, count: int) -> None:
        self._observe((self._before + done / count) / self._passes)
        self._before += done == count


def _asked_rounds(run: FinishedRun, rounds: Rounds | Sequence[Rounds]) -> list[dict[str, int]]:
    own = run.rounds
    if rounds is None:
        numbers = rounds_up_to(max(own.values())) if own else []
        capped = [{name: min(count, each) for name, each in own.items()} for count in numbers]
        return _once(capped) or [{}]
    with option_values():
        return [*several_rounds(run.graph, rounds, own)]


def _once(every: Sequence[dict[str, int]]) -> list[dict[str, int]]:
    return [each for index, each in enumerate(every) if each not in every[:index]]


def _check_output(picture: Path, *runs: FinishedRun | None) -> None:
    """Raises where the results could not be written, or would replace a file of the runs."""
    require_picture(picture, "eval.svg")
    folders = [run.folder for run in runs if run is not None]
    own = {file.resolve() for each in folders for file in each.files if file not in each.evaluation}
    for file in (picture, picture.with_suffix(".json")):
        if file.resolve() in own:
            message = f"'{picture.name}' would write over {file.name} of the run"
            raise UsageError("usage", message, hint="choose another name, as eval.svg")
        check_writable(file)


def _check_pair(
    run: FinishedRun, baseline: FinishedRun, data: str | None, windows: int | None
) -> None:
    """Raises where the two runs cannot be compared on the same data."""
    require_repeat(run)
    objectives = [side.config.objective for side in (run, baseline)]
    if objectives[0] != objectives[1]:
        message = f"the run learned {objectives[0]}, and its baseline {objectives[1]}"
        hint = "name a baseline that was trained for the same objective"
        raise UsageError("other-objective", message, hint=hint)
    for side in (run, baseline):
        side.require_known_training()
    if data is None and run.held_out != baseline.held_out:
        message = "the baseline was trained with other held-out data"
        hint = f"name data that neither was trained on with {setting('data')}"
        raise DataError("other-text", message, place=str(baseline.folder.data_record), hint=hint)
    is_text = objectives[0] == "next_token"
    if windows is not None and is_text and not reads_alike(run, baseline):
        message = f"{setting('windows')} needs runs with one tokenizer and one length of sequences"
        raise UsageError("usage", message, hint=f"leave {setting('windows')} out")


def _require_text(run: FinishedRun) -> None:
    """Raises UsageError for a run that cannot be asked tasks."""
    trained_for = run.config.objective
    if trained_for != "next_token":
        message = f"a run with the objective {trained_for} reads no text, which tasks are made of"
        raise UsageError("usage", message, hint=f"leave {setting('tasks')} out")


def _with_baseline(
    report: EvalReport,
    run: FinishedRun,
    baseline: FinishedRun,
    ours: Measured,
    theirs: Measured,
    margin: float,
) -> EvalReport:
    pieces = theirs.pieces(baseline.rounds)
    return replace(
        report,
        baseline=_row(baseline, baseline.rounds, theirs.quality(baseline.rounds)),
        baseline_run=str(baseline.path),
        baseline_state=baseline.words,
        baseline_signature=baseline.signature,
        baseline_sequence_length=baseline.sequence_length,
        verdict=judge(run, baseline, ours.pieces, pieces, margin=margin),
    )


def _row(run: FinishedRun, rounds: Mapping[str, int], quality: Quality) -> EvalRow:
    return EvalRow(rounds, run.is_trained(rounds), run.forward_flops_per_token(rounds), quality)


def _path(text: str | Path | None) -> Path | None:
    return None if text is None else Path(text)
