"""``rinsc eval``: how good a trained model is at each number of rounds, and against a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rinsc.cli.output import print_json, print_line, print_result_table
from rinsc.cli.values import Count, Listed, Output, listed
from rinsc.extras import quick_imports, require

if TYPE_CHECKING:
    from rinsc.evaluation.report import EvalReport
    from rinsc.training.finished import FinishedRun


def print_evaluation(report: EvalReport) -> None:
    """The tables on standard output, and below each what it was measured on."""
    for table, lines in report.tables():
        print_result_table(table)
        for line in lines:
            print_line(line)


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
    zero_shot: str | None = None,
    template: Listed = (),
    retrieval: bool = False,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    output: Output = None,
    json: bool = False,
) -> None:
    """Evaluate a trained model on held-out data, and on tasks, at several numbers of rounds.

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
    zero_shot
        Of two towers: tell pictures apart by the names of their classes. A set as emoji-groups, a
        folder with a folder of pictures for each class, or a file (.txt, .json) with names.
    template
        What a name is put into, as "a photo of a {}"; may be given again for more.
    retrieval
        Of two towers: how often a picture's own caption is the nearest, and the other way round;
        with a page of pictures beside the picture.
    device
        Where to run; auto takes a GPU where there is one.
    output
        The picture, .png or .svg; eval.svg in the run folder if not given.
    json
        Print JSON.
    """
    with quick_imports():
        require("torch", "safetensors", "numpy", "tokenizers", "transformers", "matplotlib")
        from rinsc.evaluation.evaluate import check_settings, evaluate
        from rinsc.training.opening import trained_run

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
        zero_shot=zero_shot,
        templates=template,
        retrieval=retrieval,
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
