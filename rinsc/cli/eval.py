"""``rinsc eval``: how good a trained model is at each number of rounds, and against a baseline."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rinsc.cli.bench_text import asked_rounds, default_rounds
from rinsc.cli.eval_report import EvalReport, EvalRow, print_evaluation
from rinsc.cli.numbers import short_text
from rinsc.cli.output import print_json
from rinsc.cli.values import Count, Listed, listed, option_values
from rinsc.errors import DataError, UsageError, plural
from rinsc.extras import require
from rinsc.progress import LateProgress
from rinsc.storage.files import check_writable, write_atomically

if TYPE_CHECKING:
    import torch

    from rinsc.evaluation.harness import Tasks
    from rinsc.graph import Rounds
    from rinsc.plots import Mark
    from rinsc.training.evaluate import Evaluation
    from rinsc.training.finished import FinishedRun

PICTURE = "eval.svg"  # in the run folder
MAX_TITLE, MAX_LABEL = 32, 16  # characters of a signature


class _Passes:
    """Of the windows done in one pass over the text, the share of all passes."""

    def __init__(self, passes: int, observe: Callable[[float], None]) -> None:
        self._passes, self._observe = passes, observe
        self._before = 0

    def __call__(self, done: int, count: int) -> None:
        self._observe((self._before + done / count) / self._passes)
        self._before += done == count


def eval_(
    run: Annotated[
        str,
        Parameter(
            name="RUN",
            help="The folder of a run or of one of its checkpoints. Of a run that is not finished "
            "it is the latest one.",
        ),
    ],
    /,
    *,
    rounds: Listed = (),
    data: str | None = None,
    windows: Count | None = None,
    baseline: str | None = None,
    margin: float = 0.0,
    tasks: Listed = (),
    include: Path | None = None,
    limit: Count | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    json: bool = False,
) -> None:
    """Evaluate a trained model on held-out text, and on tasks, at several numbers of rounds.

    Bits per byte, perplexity and the accuracy of the next token, a row for each of the rounds: as
    a table, as a picture, and as a JSON file of the same name beside the picture.

    Parameters
    ----------
    rounds
        As 1..4, as 1,2,4, or A=1..4 for one repeat. If not given: up to those of training.
    data
        Held-out text of another corpus; that of the run if not given.
    windows
        At most so many windows of the text, from all over it; all if not given.
    baseline
        The folder of a baseline's run, or of a checkpoint: was recursion worth its training FLOPs?
    margin
        Bits per byte that one round may be worse than the baseline and still leave no regret.
    tasks
        Tasks of lm-evaluation-harness, separated by commas; may be given again for more.
    include
        A folder with YAML files of more tasks.
    limit
        At most so many examples of each task.
    device
        Where to run; auto takes a GPU where there is one.
    output
        The picture, .png or .svg; eval.svg in the run folder if not given.
    json
        Print JSON.
    """
    _check_counts(windows, limit)
    _check_margin(margin, baseline)
    _check_tasks(tasks, include, limit)
    require("torch", "safetensors", "numpy", "tokenizers", "transformers", "matplotlib")
    from rinsc.evaluation.verdict import require_margin
    from rinsc.training.devices import find_devices
    from rinsc.training.finished import trained_run

    require_margin(margin)
    found = trained_run(Path(run))
    every = _rounds(rounds, found)
    picture = _picture(found) if output is None else output
    other = None if baseline is None else trained_run(Path(baseline))
    _check_output(picture, found, other)
    place = find_devices(device).device
    if other is not None:
        _check_pair(found, other, data, windows)
    names = listed(tasks)
    manager = _tasks(found, names, include)
    report = _evaluate(found, other, every, data, windows, place, margin)
    if manager is not None:
        report = _with_scores(report, found, names, manager, limit, place)
    _draw(report, picture)
    write_atomically(picture.with_suffix(".json"), json_text.dumps(report.facts(), indent=2) + "\n")
    if json:
        print_json(report.facts())
    else:
        print_evaluation(report)


def _picture(run: FinishedRun) -> Path:
    """Beside the run, one for each checkpoint that is evaluated."""
    folder, checkpoint = run.folder, run.checkpoint
    if checkpoint is None:
        return folder.path / PICTURE
    return folder.evaluation_of(checkpoint.path.name)


def _check_counts(windows: int | None, limit: int | None) -> None:
    for name, given in (("--windows", windows), ("--limit", limit)):
        if given is not None and given < 1:
            message = f"{name} must be at least 1"
            raise UsageError("usage", message, hint="leave it out for all of them")


def _check_margin(margin: float, baseline: str | None) -> None:
    if margin and baseline is None:
        message = "--margin is about a baseline, and none is named"
        raise UsageError("usage", message, hint="name its run with --baseline")


def _check_tasks(tasks: Sequence[str], include: Path | None, limit: int | None) -> None:
    for name, given in (("--include", include), ("--limit", limit)):
        if given is not None and not tasks:
            message = f"{name} is about tasks, and none are named"
            raise UsageError("usage", message, hint="name them with --tasks")
    if tasks and not listed(tasks):
        message = "--tasks names no task"
        raise UsageError("usage", message, hint="write --tasks NAME,NAME")
    if tasks:
        require("lm_eval")


def _rounds(texts: Sequence[str], run: FinishedRun) -> list[dict[str, int]]:
    """The rounds to evaluate, by repeat; raises UsageError for what the model cannot run."""
    from rinsc.graph import resolve_rounds

    trained = run.rounds
    if not texts:
        if not trained:
            return [{}]
        most = default_rounds(max(trained.values()))
        capped = [{name: min(count, own) for name, own in trained.items()} for count in most]
        return [each for place, each in enumerate(capped) if each not in capped[:place]]
    every = []
    for name, numbers in _rounds_by_name(texts).items():
        with option_values():
            for number in asked_rounds(*numbers):
                asked: Rounds = trained | {name: number} if name else number
                every.append(resolve_rounds(run.graph, asked))
    return [each for place, each in enumerate(every) if each not in every[:place]]


def _rounds_by_name(texts: Sequence[str]) -> dict[str, list[str]]:
    """The numbers of each value of --rounds, by the repeat that it names; "" is every repeat."""
    found: dict[str, list[str]] = {}
    for text in texts:
        name, _, numbers = text.rpartition("=")
        found.setdefault(name.strip(), []).append(numbers)
    return found


def _check_output(picture: Path, *runs: FinishedRun | None) -> None:
    """Raises where the results could not be written, or would replace a file of the runs."""
    from rinsc.plots import FORMATS

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
    from rinsc.evaluation.measure import reads_alike
    from rinsc.evaluation.verdict import require_repeat

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


def _tasks(run: FinishedRun, names: Sequence[str], include: Path | None) -> Tasks | None:
    """The tasks, found before any work is done."""
    if not names:
        return None
    from rinsc.evaluation.harness import find_tasks

    return find_tasks(names, run.tokenizer(), include)


def _evaluate(
    run: FinishedRun,
    baseline: FinishedRun | None,
    every: Sequence[Mapping[str, int]],
    data: str | None,
    windows: int | None,
    device: torch.device,
    margin: float,
) -> EvalReport:
    """Everything on held-out text, and the verdict."""
    from rinsc.evaluation.measure import Measured, read_pair, read_text
    from rinsc.evaluation.verdict import judge, judged_rounds
    from rinsc.progress import PreparationProgress

    if baseline is None:
        text, wanted = read_text(run, data, windows, PreparationProgress), list(every)
    else:
        text, other = read_pair(run, baseline, data, windows, PreparationProgress)
        wanted = [*every, *judged_rounds(run, baseline), baseline.rounds]
    passes = len({tuple(each.items()) for each in wanted})
    with LateProgress("measuring the loss on held-out text") as progress:
        observe = _Passes(passes, progress)
        ours = Measured(run, text, device, observe)
        report = EvalReport(
            run=str(run.path),
            steps=run.steps,
            state=run.words,
            signature=run.signature,
            text=text.name,
            held_out=text.part,
            windows=len(text.held_out.windows),
            sequence_length=run.sequence_length,
            precision=run.config.precision,
            rows=tuple(_row(run, each, ours.quality(each)) for each in every),
        )
        if baseline is None:
            return report
        theirs = Measured(baseline, other, device, observe)
        return replace(
            report,
            baseline=_row(baseline, baseline.rounds, theirs.quality(baseline.rounds)),
            baseline_run=str(baseline.path),
            baseline_state=baseline.words,
            baseline_signature=baseline.signature,
            baseline_sequence_length=baseline.sequence_length,
            verdict=judge(
                run, baseline, ours.losses, theirs.losses(baseline.rounds), margin=margin
            ),
        )


def _row(run: FinishedRun, rounds: Mapping[str, int], quality: Evaluation) -> EvalRow:
    return EvalRow(rounds, run.is_trained(rounds), run.forward_flops_per_token(rounds), quality)


def _with_scores(
    report: EvalReport,
    run: FinishedRun,
    names: Sequence[str],
    manager: Tasks,
    limit: int | None,
    device: torch.device,
) -> EvalReport:
    """The report with the scores of the tasks at each of its rounds."""
    from rinsc.evaluation.harness import score_tasks, trained_model

    model, tokenizer = trained_model(run, device), run.tokenizer()
    rows = []
    with LateProgress("running the tasks") as progress:
        for row in report.rows:
            scores = score_tasks(
                *(model, tokenizer, names, manager),
                rounds=row.rounds or None,
                limit=limit,
            )
            rows.append(replace(row, scores=scores))
            progress(len(rows) / len(report.rows))
    return replace(report, rows=tuple(rows))


def _draw(report: EvalReport, picture: Path) -> None:
    from rinsc.plots import draw_evaluation

    marks = [_mark(row, row.label) for row in report.rows]
    base = report.baseline
    other = None if base is None else _mark(base, short_text(report.baseline_signature, MAX_LABEL))
    title = f"{short_text(report.signature, MAX_TITLE)}: quality against rounds"
    where = f"held-out text of {short_text(report.text, MAX_TITLE)}"
    length = plural(report.sequence_length, "token")
    windows = f"{report.part_words} {plural(report.windows, 'window')} of {length}"
    words = where, windows, report.precision
    draw_evaluation(marks, other, title, picture, subtitle=" · ".join(words))


def _mark(row: EvalRow, label: str) -> Mark:
    from rinsc.plots import Mark

    ringed = row.is_trained and bool(row.rounds)
    return Mark(label, row.flops_per_token, row.quality.bits_per_byte, ringed)
