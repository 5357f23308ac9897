"""``rinsc bench``: what each number of rounds costs, and what it is worth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rinsc.cli.output import CommandProgress, note, print_json, print_line, print_table
from rinsc.cli.values import Listed, Output
from rinsc.errors import plural
from rinsc.scalars import exact

if TYPE_CHECKING:
    from rinsc.verbs.reports import BenchReport


def bench_(
    model: Annotated[str, Parameter(name="MODEL", help="A model folder or an ONNX file.")],
    /,
    *,
    rounds: Listed = (),
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    batch: int | None = None,
    threads: int | None = None,
    provider: Literal["cuda", "cpu"] | None = None,
    text: Path | None = None,
    output: Output = None,
    json: bool = False,
) -> None:
    """Measure an exported model at several numbers of rounds: quality against cost.

    A table of speed, memory, bits per byte on held-out text, FLOPs and bytes, a row for each of
    the rounds. They take turns, so that whatever else the machine does slows all of them alike.
    Of a model that takes pictures: pictures and patches per second of a forward pass.

    Parameters
    ----------
    rounds
        As 1..4, as 1,2,4, or both, and may be given again; at most 32 numbers. If not given: those
        that the model was written with and, where it can run them, fewer.
    prompt_tokens
        Tokens before the first one that is generated; 128 if not given, or what has room.
    new_tokens
        Tokens that are generated; 64 if not given, or what has room.
    batch
        Pictures of a forward pass, of a model that takes pictures; 1 if not given.
    threads
        As many as there are cores if not given.
    provider
        The first of cuda and cpu that loads if not given.
    text
        Held-out text, of which the first MiB is read; heldout.txt beside the model if not given.
    output
        Draw bits per byte against ms per token: a file with the suffix .png or .svg.
    json
        Print JSON.
    """
    from rinsc.verbs.bench import bench

    report = bench(
        model,
        rounds=rounds or None,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        batch=batch,
        threads=threads,
        provider=provider,
        text=text,
        output=output,
        progress=CommandProgress(quiet=json),
    )
    if json:
        print_json(report.facts())
        return
    from rinsc.verbs.bench_pictures import PicturesReport

    if isinstance(report, PicturesReport):
        print_table(*report.table)
        print_line()
        print_line(report.conditions)
        return
    print_bench(report)
    if output is None and report.quality is not None:
        note("for a picture of quality against cost add -o bench.png")


def print_bench(report: BenchReport) -> None:
    """The table on standard output, and below it what it was measured on."""
    print_table(*report.table)
    print_line()
    print_line(report.conditions)
    if report.exit:
        print_line(f"ends early at {report.exit}; FLOPs and bytes are of all rounds asked for")
    if report.quality is not None:
        windows, length = report.quality.windows.shape
        print_line(
            f"bits per byte on {plural(windows, 'window')} of {plural(length - 1, 'token')} of "
            "held-out text, "
            f"{exact(report.quality.byte_count)} bytes"
        )
