"""``rinsc eval``: how good a trained model is at each number of rounds, and against a baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rinsc.cli.output import print_json, print_line, print_table
from rinsc.cli.values import Count, Listed, listed
from rinsc.errors import plural
from rinsc.extras import require
from rinsc.graph import rounds_in_words
from rinsc.objectives import objective
from rinsc.scalars import exact, rounded_count, rounded_flops
from rinsc.verbs.reports import signed

if TYPE_CHECKING:
    from rinsc.evaluation.harness import TaskScore
    from rinsc.evaluation.report import EvalReport, EvalRow
    from rinsc.evaluation.verdict import Comparison, Difference, Verdict
    from rinsc.training.finished import FinishedRun


def print_evaluation(report: EvalReport) -> None:
    """The tables on standard output, and below each what it was measured on."""
    heads = ("rounds", "FLOP/token", *(figure.head for figure in report.figures))
    rows = [_cells(report, row, row.name) for row in report.rows]
    if report.baseline is not None:
        rows.append(_cells(report, report.baseline, f"baseline {report.baseline_signature}"))
    print_table(heads, rows)
    print_line()
    print_line(f"{_measured_on(report)} · {report.precision}")
    if report.state:
        print_line(f"weights: {report.state}")
    if report.baseline_state:
        print_line(f"weights of the baseline: {report.baseline_state}")
    if any(row.scores for row in report.rows):
        _print_tasks(report)
    if report.verdict is not None:
        _print_verdict(report, report.verdict)


def _measured_on(report: EvalReport) -> str:
    """What the figures are of."""
    if report.objective != "next_token":
        return report.measured_on
    lengths = plural(report.sequence_length, "token")
    if report.baseline is not None and report.baseline_sequence_length != report.sequence_length:
        lengths += f" (of the baseline: {report.baseline_sequence_length})"
    byte_count = exact(report.rows[0].quality.extent["bytes"])
    windows = f"{report.part_words} {plural(report.windows, 'window')} of {lengths}"
    return f"{windows} of held-out text of {report.text}, {byte_count} bytes"


def _cells(report: EvalReport, row: EvalRow, name: str) -> tuple[str, ...]:
    return (
        name,
        rounded_flops(row.flops_per_token).removesuffix("FLOP").rstrip(),
        *(figure.text(row.quality.figures[figure.name]) for figure in report.figures),
    )


def _print_tasks(report: EvalReport) -> None:
    """A row for each metric, a column for each number of rounds."""
    print_line()
    heads = ["task", "metric", *(row.name for row in report.rows)]
    rows = []
    for index, first in enumerate(report.rows[0].scores):
        figures = [_score(row.scores[index]) for row in report.rows]
        rows.append([first.task, first.metric, *figures])
    print_table(heads, rows, left=(0, 1))


def _score(score: TaskScore) -> str:
    error = "" if score.stderr is None else f" ± {score.stderr:.4f}"
    return f"{score.value:.4f}{error}"


def _print_verdict(report: EvalReport, verdict: Verdict) -> None:
    print_line()
    heads = ["at equal", "run", "baseline", "apart", "difference", "95 % interval", "reading"]
    rows = [_comparison_cells(comparison) for comparison in verdict.comparisons]
    print_table(heads, rows, left=(0, 6))
    print_line()
    print_line(verdict.text)
    figure, count = report.figures[0], verdict.one_round.difference.blocks
    piece = "block" if report.objective == "next_token" else objective(report.objective).piece
    pieces = plural(count, piece, exact(count))
    better = "negative" if figure.less_is_better else "positive"
    print_line(f"difference in {figure.words} to {report.baseline_signature}, {better} is better")
    print_line(f"interval: paired bootstrap over {pieces} of this data, a choice of ours;")
    print_line("noise that it misses: seeds; another seed may differ by more than its width")
    print_line("'no regret' is a word of arXiv 2502.07503 (abstract): better at one round, with")
    print_line("training FLOPs, parameters and inference FLOPs matched")


def _comparison_cells(comparison: Comparison) -> tuple[str, ...]:
    count = rounded_count if comparison.equal == "parameters" else rounded_flops
    return (
        f"{comparison.equal} ({_rounds_in_words(comparison.rounds)})",
        count(comparison.ours).removesuffix("FLOP").rstrip(),
        count(comparison.theirs).removesuffix("FLOP").rstrip(),
        "equal" if comparison.is_equal else f"{comparison.percent} %",
        signed(comparison.difference.value),
        _interval(comparison.difference),
        comparison.difference.reading,
    )


def _rounds_in_words(rounds: Mapping[str, int]) -> str:
    """``3 rounds``, or ``A=3, B=2`` where repeats differ."""
    text = rounds_in_words(rounds)
    return text if "=" in text else f"{text} round{'s' * (text != '1')}"


def _interval(difference: Difference) -> str:
    if math.isfinite(difference.low) and math.isfinite(difference.high):
        return f"{signed(difference.low)} to {signed(difference.high)}"
    return "too few" if math.isfinite(difference.value) else "no numbers"


PICTURE = "eval.svg"  # in the run folder


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
    require("torch", "safetensors", "numpy", "tokenizers", "transformers", "matplotlib")
    from rinsc.evaluation.evaluate import check_settings, evaluate
    from rinsc.training.finished import trained_run

    names = listed(tasks) if tasks else None
    check_settings(windows, baseline, margin, names, include, limit)
    trained = trained_run(Path(run))
    report = evaluate(
        trained,
        rounds=rounds or None,
        data=data,
        windows=windows,
        baseline=baseline,
        margin=margin,
        tasks=names or (),
        include=include,
        limit=limit,
        device=device,
        output=_picture(trained) if output is None else output,
    )
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
