"""`rinsc.evaluate`: a trained model on held-out data and on tasks, at several numbers of rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch

from rinsc.backends.torch.memory import allocation_errors
from rinsc.data.names import note_named
from rinsc.errors import DataError, UsageError, option_values, require_type, setting
from rinsc.evaluation.harness import find_tasks, score_tasks, trained_model
from rinsc.evaluation.pairs import Matching, pairs_request, require_towers
from rinsc.evaluation.reading_runs import ReadData, read_data, read_pair, reads_alike
from rinsc.evaluation.report import EvalReport, EvalRow
from rinsc.evaluation.verdict import (
    are_continued,
    judge,
    judged_rounds,
    require_margin,
    require_repeat,
)
from rinsc.extras import require
from rinsc.graph import Rounds, rounds_in_words, rounds_up_to, several_rounds
from rinsc.graph.towers_graph import several_tower_rounds
from rinsc.objectives import Observe, Pieces, Quality, objective
from rinsc.objectives.next_token import evaluate_blocks
from rinsc.plots import require_picture
from rinsc.progress import Observer, Progress, ShownProgress
from rinsc.scalars import whole
from rinsc.storage.files import check_writable
from rinsc.training.devices import find_devices
from rinsc.training.finished import FinishedRun, TowersRun
from rinsc.training.opening import trained_run


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
    zero_shot: str | Path | None = None,
    templates: Sequence[str] = (),
    retrieval: bool = False,
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

    Of two towers, ``zero_shot`` names a set of pictures with classes, or a file with names of
    classes, which ``templates`` make texts of. With ``retrieval`` pictures and captions search each
    other; a page with pictures stands beside the ``output``.
    """
    check_settings(windows, baseline, margin, tasks or None, include, limit)
    request = pairs_request(zero_shot, templates, retrieval)
    margin = float(margin)  # of whatever library
    shown = ShownProgress() if progress is None else progress
    trained = run if isinstance(run, FinishedRun) else trained_run(Path(run))
    every = _asked_rounds(trained, rounds)
    other = baseline
    if other is not None and not isinstance(other, FinishedRun):
        other = trained_run(Path(other))
    if output is not None:
        _check_output(Path(output), trained, other)
    if other is not None:
        _check_pair(trained, other, data, windows)
    if tasks:
        _require_text(trained)
    towers = require_towers(trained, request) if request else None
    where = find_devices(device).device
    loaded_tasks = find_tasks(tasks, trained.tokenizer(), _path(include)) if tasks else None
    if other is None:
        held_out, evaluated = read_data(trained, data, windows, shown), every
    else:
        held_out, held_out_of_other = read_pair(trained, other, data, windows, shown)
        evaluated = [*every, *judged_rounds(trained, other), other.rounds]
    if data is not None:
        note_named(data)
    matching = None
    if towers is not None:
        matching = Matching(towers, held_out.held_out.pairs, request, shown)
    with shown.task("measuring on held-out data") as observe:
        passes = _Passes(len({tuple(rounds.items()) for rounds in evaluated}), observe)
        ours = Measured(trained, held_out, where, passes)
        report = EvalReport(
            run=str(trained.path),
            steps=trained.steps,
            state=trained.state,
            signature=trained.signature,
            text=held_out.name,
            held_out=held_out.part,
            windows=len(held_out.held_out),
            sequence_length=trained.sequence_length,
            precision=trained.config.precision,
            rows=tuple(_row(trained, rounds, ours.quality(rounds)) for rounds in every),
            objective=trained.config.objective,
        )
        if other is not None:
            theirs = Measured(other, held_out_of_other, where, passes)
            report = _with_baseline(report, trained, other, ours, theirs, margin)
    if matching is not None:
        report = _with_matches(report, trained, ours, matching, shown, output)
    if loaded_tasks is not None:
        model, tokenizer, rows = trained_model(trained, where), trained.tokenizer(), []
        with shown.task("running the tasks") as observe:
            for row in report.rows:
                counts = row.rounds or None
                scores = score_tasks(
                    *(model, tokenizer, tasks, loaded_tasks), rounds=counts, limit=limit
                )
                rows.append(replace(row, scores=scores))
                observe(len(rows) / len(report.rows))
        report = replace(report, rows=tuple(rows))
    if output is not None:
        report.save(Path(output))
    return report


def check_settings(
    windows: int | None,
    baseline: object,
    margin: float,
    tasks: Sequence[str] | None,
    include: str | Path | None,
    limit: int | None,
) -> None:
    """Raises UsageError for settings that do not fit each other, before anything is read; without
    tasks they are None."""
    require_margin(margin)
    for name, count in (("windows", windows), ("limit", limit)):
        number = whole(count)
        if number is None:
            require_type(name, count, (), f"{name}=64", optional=True)
        elif number < 1:
            message = f"{setting(name)} must be at least 1"
            raise UsageError("usage", message, hint="leave it out for all of them")
    if margin and baseline is None:
        message = f"{setting('margin')} is about a baseline, and none is named"
        raise UsageError("usage", message, hint=f"name its run with {setting('baseline')}")
    for name, value in (("include", include), ("limit", limit)):
        if value is not None and tasks is None:
            message = f"{setting(name)} is about tasks, and none are named"
            raise UsageError("usage", message, hint=f"name them with {setting('tasks')}")
    if tasks is not None and not tasks:
        message = f"{setting('tasks')} names no task"
        hint = f"write {setting('tasks=[NAME, NAME]', '--tasks NAME,NAME')}"
        raise UsageError("usage", message, hint=hint)
    if tasks:
        require("lm_eval")


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
        capped = [{name: min(count, cap) for name, cap in own.items()} for count in numbers]
        return _once(capped) or [{}]
    with option_values():
        if isinstance(run, TowersRun):
            return several_tower_rounds(run.graph, rounds, own)
        return [*several_rounds(run.graph, rounds, own)]


def _once(every: Sequence[dict[str, int]]) -> list[dict[str, int]]:
    return [rounds for index, rounds in enumerate(every) if rounds not in every[:index]]


def _check_output(picture: Path, *runs: FinishedRun | None) -> None:
    """Raises where the results could not be written, or would replace a file of the runs."""
    require_picture(picture, "eval.svg")
    folders = [run.folder for run in runs if run is not None]
    own = {
        file.resolve()
        for folder in folders
        for file in folder.files
        if file not in folder.evaluation
    }
    for file in (picture, picture.with_suffix(".json"), picture.with_suffix(".html")):
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
        if are_continued(run, baseline):
            side.require_history()
        else:
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
        baseline_state=baseline.state,
        baseline_signature=baseline.signature,
        baseline_sequence_length=baseline.sequence_length,
        verdict=judge(run, baseline, ours.pieces, pieces, margin=margin),
    )


def _row(run: FinishedRun, rounds: Mapping[str, int], quality: Quality) -> EvalRow:
    return EvalRow(rounds, run.is_trained(rounds), run.forward_flops_per_token(rounds), quality)


def _with_matches(
    report: EvalReport,
    run: FinishedRun,
    ours: Measured,
    matching: Matching,
    progress: Progress,
    output: str | Path | None,
) -> EvalReport:
    """The report with classes and retrieval in its rows, and the page beside the ``output``."""
    embedder, rows = matching.embedder(ours.model), []
    with progress.task("comparing pictures with texts") as observe:
        for row in report.rows:
            share, recall = matching.at(embedder, row.rounds)
            rows.append(replace(row, zero_shot=share, retrieval=recall))
            observe(len(rows) / len(report.rows))
    report = replace(report, rows=tuple(rows), matched_on=matching.facts)
    if output is not None and matching.texts is not None:
        page = Path(output).with_suffix(".html")
        at = f"at {rounds_in_words(run.rounds)} rounds" if run.rounds else "without repeats"
        matching.write_page(page, embedder, run.rounds, [f"{report.measured_on}, {at}"])
        report = replace(report, page=str(page))
    return report


def _path(text: str | Path | None) -> Path | None:
    return None if text is None else Path(text)


class Measured:
    """The figures of a run on held-out data, computed where they are asked for first."""

    def __init__(
        self, run: FinishedRun, data: ReadData, device: torch.device, observe: Observe
    ) -> None:
        self._run, self._data, self._observe = run, data, observe
        self.model = run.model(device)
        self._at: dict[tuple[tuple[str, int], ...], tuple[Quality, Pieces]] = {}

    @allocation_errors()
    def at(self, rounds: Mapping[str, int]) -> tuple[Quality, Pieces]:
        """In the precision that the run was trained in; raises LoweringError without memory."""
        key = tuple(sorted(rounds.items()))
        if key not in self._at:
            self._at[key] = self._measured(rounds or None)
        return self._at[key]

    def _measured(self, rounds: Rounds) -> tuple[Quality, Pieces]:
        config, data = self._run.config, self._data
        how: Any = {"precision": config.precision, "observe": self._observe, "rounds": rounds}
        if data.blocks is not None:
            return evaluate_blocks(self.model, data.held_out, data.blocks, **how)
        quality = objective(config.objective).measure(self.model, data.held_out, **how)
        assert quality.pieces is not None
        return quality, quality.pieces

    def quality(self, rounds: Mapping[str, int]) -> Quality:
        return self.at(rounds)[0]

    def pieces(self, rounds: Mapping[str, int]) -> Pieces:
        return self.at(rounds)[1]
