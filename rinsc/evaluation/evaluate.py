"""`rinsc.evaluate`: a trained model on held-out data and on tasks, at several numbers of rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from rinsc.errors import DataError, UsageError, require_type
from rinsc.evaluation.harness import find_tasks, score_tasks, trained_model
from rinsc.evaluation.measure import Measured, read_pair, read_text, reads_alike
from rinsc.evaluation.report import EvalReport, EvalRow
from rinsc.evaluation.verdict import (
    judge,
    judged_rounds,
    require_margin,
    require_repeat,
)
from rinsc.extras import require
from rinsc.graph import Rounds, resolve_rounds, rounds_up_to
from rinsc.objectives import Quality, Request, objective
from rinsc.plots import FORMATS
from rinsc.progress import Observer, Progress, ShownProgress
from rinsc.scalars import whole
from rinsc.storage.files import check_writable
from rinsc.training.devices import find_devices
from rinsc.training.finished import FinishedRun, trained_run
from rinsc.training.heldout import corpus_record


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

    ``rounds`` are one number or several, for every repeat or by name; by default those up to
    training's. ``data`` is another corpus, of which at most so many ``windows`` are read.
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
    where = find_devices(device).device
    if found.config.objective != "next_token":
        _require_no_text(found, other, tasks)
        report = _report(found, every, data, windows, where, shown)
        if output is not None:
            report.save(Path(output))
        return report
    if other is not None:
        _check_pair(found, other, data, windows)
    known = find_tasks(tasks, found.tokenizer(), _path(include)) if tasks else None
    if other is None:
        text, wanted = read_text(found, data, windows, shown), every
    else:
        text, their_text = read_pair(found, other, data, windows, shown)
        wanted = [*every, *judged_rounds(found, other), other.rounds]
    with shown.task("measuring the loss on held-out text") as observe:
        passes = _Passes(len({tuple(each.items()) for each in wanted}), observe)
        ours = Measured(found, text, where, passes)
        report = EvalReport(
            run=str(found.path),
            steps=found.steps,
            state=found.words,
            signature=found.signature,
            text=text.name,
            held_out=text.part,
            windows=len(text.held_out.windows),
            sequence_length=found.sequence_length,
            precision=found.config.precision,
            rows=tuple(_row(found, each, ours.quality(each)) for each in every),
        )
        if other is not None:
            theirs = Measured(other, their_text, where, passes)
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
    if rounds is None:
        own = run.rounds
        numbers = rounds_up_to(max(own.values())) if own else []
        capped = [{name: min(count, each) for name, each in own.items()} for count in numbers]
        return _once(capped) or [{}]
    several_types = (int, Mapping, Sequence)
    if whole(rounds) is None and (isinstance(rounds, str) or not isinstance(rounds, several_types)):
        require_type("rounds", rounds, (), "rounds=2, or rounds=range(1, 4)")
    several = rounds if isinstance(rounds, Sequence) else [rounds]
    return _once([resolve_rounds(run.graph, each) for each in several])


def _once(every: Sequence[dict[str, int]]) -> list[dict[str, int]]:
    return [each for index, each in enumerate(every) if each not in every[:index]]


def _check_output(picture: Path, *runs: FinishedRun | None) -> None:
    """Raises where the results could not be written, or would replace a file of the runs."""
    require("matplotlib")
    suffixes = [f".{name}" for name in FORMATS]
    if picture.suffix.lower() not in suffixes:
        message = f"a picture is written as {' or '.join(suffixes)}, not '{picture.name}'"
        raise UsageError("usage", message, hint="write -o eval.svg")
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
    """Raises where the two runs cannot be compared on one text."""
    require_repeat(run)
    for each in (run, baseline):
        each.require_known_training()
    if data is None and run.held_out != baseline.held_out:
        message = "the baseline was trained with another held-out text"
        hint = "name a text that neither was trained on with --data"
        raise DataError("other-text", message, place=str(baseline.folder.data_record), hint=hint)
    if windows is not None and not reads_alike(run, baseline):
        message = "--windows needs runs with one tokenizer and one length of sequences"
        raise UsageError("usage", message, hint="leave --windows out")


def _require_no_text(run: FinishedRun, baseline: FinishedRun | None, tasks: Sequence[str]) -> None:
    """Raises UsageError for what only runs on text are measured by."""
    asked = [*([] if baseline is None else ["a baseline"]), *(["tasks"] if tasks else [])]
    if asked:
        message = f"a run with the objective {run.config.objective} is measured without {asked[0]}"
        raise UsageError("usage", message, hint="leave it out; compare two reports by hand")


def _report(
    run: FinishedRun,
    every: Sequence[Mapping[str, int]],
    data: str | None,
    most: int | None,
    device: torch.device,
    progress: Progress,
) -> EvalReport:
    """The figures of the objective on data that was held out, which is read anew."""
    trained_for, config, spec = objective(run.config.objective), run.config, run.graph.spec
    name = str(corpus_record(run.folder)["name"]) if data is None else data
    request = Request(name, spec, shown=False)
    opened = trained_for.open(request, trained_for.prepare(request))
    corpus = opened.record["corpus"]
    if data is None and isinstance(corpus, Mapping) and corpus["held_out"] != run.held_out:
        message = f"'{name}' is not what it was when the run was trained"
        place = str(run.folder.data_record)
        raise DataError("other-text", message, place=place, hint="restore the data")
    trained_for.check_data(spec, opened, config)
    whole = trained_for.held_out(opened, config)
    held_out, model = whole.spread(most), run.model(device)
    rows = []
    with progress.task("measuring on held-out data") as observe:
        passes = _Passes(len(every), observe)
        for rounds in every:
            quality = trained_for.measure(
                *(model, held_out),
                rounds=rounds or None,
                precision=config.precision,
                observe=passes,
            )
            rows.append(_row(run, rounds, quality))
    return EvalReport(
        run=str(run.path),
        steps=run.steps,
        state=run.words,
        signature=run.signature,
        text=name,
        held_out=whole.part(most),
        windows=len(held_out),
        sequence_length=run.sequence_length,
        precision=config.precision,
        rows=tuple(rows),
        objective=config.objective,
    )


def _with_baseline(
    report: EvalReport,
    run: FinishedRun,
    baseline: FinishedRun,
    ours: Measured,
    theirs: Measured,
    margin: float,
) -> EvalReport:
    losses = theirs.losses(baseline.rounds)
    return replace(
        report,
        baseline=_row(baseline, baseline.rounds, theirs.quality(baseline.rounds)),
        baseline_run=str(baseline.path),
        baseline_state=baseline.words,
        baseline_signature=baseline.signature,
        baseline_sequence_length=baseline.sequence_length,
        verdict=judge(run, baseline, ours.losses, losses, margin=margin),
    )


def _row(run: FinishedRun, rounds: Mapping[str, int], quality: Quality) -> EvalRow:
    return EvalRow(rounds, run.is_trained(rounds), run.forward_flops_per_token(rounds), quality)


def _path(text: str | Path | None) -> Path | None:
    return None if text is None else Path(text)
