"""``rinsc bench``: what each number of rounds costs, and what it is worth."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rinsc.backends.onnx.contract import Key
from rinsc.cli.bench_report import BenchReport, BenchRow, print_bench
from rinsc.cli.bench_text import asked_rounds, rounds_by_repeat
from rinsc.cli.diagnostics import CommandProgress, note
from rinsc.cli.numbers import short_text
from rinsc.cli.output import print_json, print_note
from rinsc.cli.values import Listed
from rinsc.errors import CheckpointError, UsageError, plural
from rinsc.extras import require
from rinsc.progress import LateProgress
from rinsc.storage.files import check_writable
from rinsc.verbs.quality import HeldOut, find_held_out

if TYPE_CHECKING:
    from rinsc.backends.onnx import Session
    from rinsc.evaluation.quality import Quality

PROMPT_TOKENS, NEW_TOKENS = 128, 64
MAX_THREADS = 1024
MAX_TITLE = 40  # characters of the signature


@dataclass(frozen=True)
class Task:
    """What is measured: a session, what its file says of it, and at which rounds."""

    session: Session
    metadata: Mapping[str, str]
    threads: int | None
    rounds: Sequence[Mapping[str, int]]
    lengths: tuple[int, int]  # tokens of the prompt, and new ones
    memory_before: int | None


def bench(
    model: Annotated[str, Parameter(name="MODEL", help="A model folder or an ONNX file.")],
    /,
    *,
    rounds: Listed = (),
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    threads: int | None = None,
    provider: Literal["cuda", "cpu"] | None = None,
    text: Path | None = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    json: bool = False,
) -> None:
    """Measure an exported model at several numbers of rounds: quality against cost.

    A table of speed, memory, bits per byte on held-out text, FLOPs and bytes, a row for each of
    the rounds. They take turns, so that whatever else the machine does slows all of them alike.

    Parameters
    ----------
    rounds
        As 1..4, as 1,2,4, or both, and may be given again; at most 32 numbers. If not given: those
        that the model was written with and, where it can run them, fewer.
    prompt_tokens
        Tokens before the first one that is generated; 128 if not given, or what has room.
    new_tokens
        Tokens that are generated; 64 if not given, or what has room.
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
    numbers = asked_rounds(*rounds) if rounds else None
    _check_threads(threads)
    if output is not None:
        _check_picture(output)
    file = _model_file(model)
    require("numpy", "onnxruntime")
    from rinsc.backends.onnx import Session
    from rinsc.backends.onnx.run.benchmark import metadata_of, own_memory_bytes
    from rinsc.layers import require_language_model

    memory_before = own_memory_bytes()
    session = Session(file, provider=provider, threads=threads)
    require_language_model(session.spec)
    metadata = metadata_of(file)
    every = rounds_by_repeat(numbers, session, metadata[Key.FORM], file)
    lengths = _lengths(session.spec.context, prompt_tokens, new_tokens)
    progress = CommandProgress(quiet=json)
    size = session.spec.vocab_size
    held_out = find_held_out(file, text, size, progress, needed=output is not None)
    _say_limits(session, every[-1], lengths[0] if prompt_tokens is None else None)
    task = Task(session, metadata, threads, every, lengths, memory_before)
    report = _measure(task, held_out, quiet=json)
    if output is not None:
        _draw(report, output)
        print_note(f"wrote {output}")
    if json:
        print_json(report.facts())
    else:
        print_bench(report)
        if output is None and held_out is not None:
            note("for a picture of quality against cost add -o bench.png")


def _measure(task: Task, held_out: HeldOut | None, *, quiet: bool) -> BenchReport:
    """Speed at all rounds, then quality, while a bar says how far it is."""
    from rinsc.backends.onnx.precision import parse_precision
    from rinsc.backends.onnx.run.benchmark import measure_speed, token_cost

    session, metadata = task.session, task.metadata
    prompt_tokens, new_tokens = task.lengths
    with _progress("measuring the speed", quiet=quiet) as observe:
        speeds = measure_speed(
            *(session, task.rounds, prompt_tokens, new_tokens),
            memory_before=task.memory_before,
            observe=observe,
        )
    quality = None if held_out is None else _quality(task, held_out, quiet=quiet)
    middle = prompt_tokens + (new_tokens + 1) // 2  # what a token amid the new ones sees
    precision = parse_precision(metadata[Key.PRECISION])
    rows = []
    for place, (each, speed) in enumerate(zip(task.rounds, speeds, strict=True)):
        cost = token_cost(session.graph, each, middle, precision, cached=session.has_cache)
        bits = None if quality is None else quality.rows[place].bits_per_byte
        rows.append(BenchRow(each, speed, cost, bits))
    return BenchReport(
        tuple(rows),
        signature=session.spec.text,
        written=session.rounds,
        provider=session.provider,
        threads=task.threads,
        precision=metadata[Key.PRECISION],
        operators=metadata[Key.OPERATORS],
        form=metadata[Key.FORM],
        exit=metadata.get(Key.EXIT, ""),
        has_cache=session.has_cache,
        in_place=session.in_place,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        quality=quality,
    )


def _quality(task: Task, held_out: HeldOut, *, quiet: bool) -> Quality:
    from rinsc.evaluation.quality import compare_quality, tokens_to_measure
    from rinsc.graph import build_graph

    with _progress("measuring the loss on held-out text", quiet=quiet) as observe:
        return compare_quality(
            *(task.session.logits, None, task.rounds),
            *(held_out.tokens, held_out.token_bytes, task.session.spec.context),
            most_tokens=tokens_to_measure(build_graph(task.session.spec)),
            observe=observe,
        )


def _progress(what: str, *, quiet: bool) -> AbstractContextManager[Callable[[float], None]]:
    return nullcontext(lambda done: None) if quiet else LateProgress(what)


def _model_file(model: str) -> Path:
    """The ONNX file that is named, itself or by its folder; raises `CheckpointError`."""
    path = Path(model)
    if (path / "model.onnx").is_file():
        return path / "model.onnx"
    if (path / "model.toml").is_file():
        message = "this is the folder of a training run, and not yet a model for ONNX Runtime"
        hint = f"rinsc compile {model} --to onnx --cache --rounds dynamic -o model/"
        raise CheckpointError("not-a-model", message, place=model, hint=hint)
    if path.is_file():
        return path
    message = "this is neither a model folder (model.onnx) nor an ONNX file"
    hint = "make one with rinsc compile MODEL --to onnx --cache --rounds dynamic -o model/"
    raise CheckpointError("not-a-model", message, place=model, hint=hint)


def _check_threads(threads: int | None) -> None:
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        message = f"--threads must be from 1 to {MAX_THREADS}"
        raise UsageError("usage", message, hint="leave it out for one a core")


def _check_picture(output: Path) -> None:
    """Raises where the picture could not be written in the end."""
    from rinsc.plots import FORMATS

    suffixes = [f".{name}" for name in FORMATS]
    if output.suffix.lower() not in suffixes:
        message = f"a picture is written as {' or '.join(suffixes)}, not '{output.name}'"
        raise UsageError("usage", message, hint="write -o bench.png")
    check_writable(output)
    require("matplotlib")


def _lengths(context: int, prompt_tokens: int | None, new_tokens: int | None) -> tuple[int, int]:
    """Tokens of the prompt and new ones: as asked for, else the defaults or what has room."""
    for name, given in (("--prompt-tokens", prompt_tokens), ("--new-tokens", new_tokens)):
        if given is not None and given < 1:
            message = f"{name} must be at least 1"
            raise UsageError("usage", message, hint="leave it out for the default")
    prompt, new = prompt_tokens, new_tokens
    if new is None:
        room = context - prompt if prompt is not None else context // 3
        new = max(1, min(NEW_TOKENS, room))
    if prompt is None:
        prompt = max(1, min(PROMPT_TOKENS, context - new))
    if prompt + new > context:
        message = f"a prompt of {prompt} and {new} new tokens exceed the context of {context}"
        raise UsageError("usage", message, hint=f"ask for at most {context} in all")
    return prompt, new


def _say_limits(session: Session, most: Mapping[str, int], prompt_tokens: int | None) -> None:
    """What keeps the figures from being those that the user may expect.

    ``prompt_tokens`` are given where nobody asked for so many.
    """
    from rinsc.graph import beyond_training, trained_rounds

    untrained = beyond_training(most, trained_rounds(session.graph))
    if untrained is not None:
        note(untrained)
    if not session.has_cache:
        message = "the model has no cache, so that each token runs the whole sequence; "
        note(message + "compile it with --cache for speed")
    if prompt_tokens is not None and prompt_tokens < PROMPT_TOKENS:
        message = (
            f"the prompt is shortened from {PROMPT_TOKENS} to {plural(prompt_tokens, 'token')}: "
        )
        note(message + f"the context is {session.spec.context}")


def _draw(report: BenchReport, output: Path) -> None:
    from rinsc.plots import Point, draw_tradeoff

    points = [
        Point(row.label, row.speed.decode_ms, row.bits_per_byte, row.rounds == report.written)
        for row in report.rows
        if row.bits_per_byte is not None
    ]
    title = f"{short_text(report.signature, MAX_TITLE)}: quality against cost"
    where = f"ONNX Runtime on {report.provider}", report.threads_in_words
    words = report.precision, *where, f"prompt of {plural(report.prompt_tokens, 'token')}"
    draw_tradeoff(points, title, output, subtitle=" · ".join(words))
