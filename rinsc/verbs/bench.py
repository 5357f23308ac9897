"""`rinsc.bench`: what each number of rounds of an exported model costs, and what it is worth."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rinsc.backends.onnx.contract import MODEL_FILE, Key
from rinsc.errors import CheckpointError, UsageError, option_values, plural, setting
from rinsc.extras import require
from rinsc.graph import rounds_in_words, rounds_up_to
from rinsc.progress import Progress, ShownProgress
from rinsc.verbs.reports import BenchReport, BenchRow, HeldOut, find_held_out

if TYPE_CHECKING:
    from rinsc.backends.onnx import Session
    from rinsc.evaluation.quality import Quality
    from rinsc.graph import Rounds
    from rinsc.verbs.bench_pictures import PicturesReport

PROMPT_TOKENS, NEW_TOKENS = 128, 64
MAX_THREADS = 1024
MAX_BATCH = 1 << 16


def bench(
    model: str | os.PathLike[str],
    *,
    rounds: Rounds | Sequence[Rounds] = None,
    prompt_tokens: int | None = None,
    new_tokens: int | None = None,
    batch: int | None = None,
    threads: int | None = None,
    provider: Literal["cuda", "cpu"] | None = None,
    text: str | os.PathLike[str] | None = None,
    output: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> BenchReport | PicturesReport:
    """Measure an exported model at several numbers of rounds: what ``rinsc bench`` does.

    ``model`` is a model folder or an ONNX file. ``rounds`` are one number or several, for every
    repeat or by name, or a text such as "1..4"; None for those that the model was written with
    and, where it can run them, fewer. A generation runs ``prompt_tokens`` (128, or what has room)
    and adds ``new_tokens`` (64, or what has room).
    A model that takes pictures is timed over passes of ``batch`` pictures (1).
    ``threads`` None stands for one a core, ``provider`` None for the first of cuda and cpu that
    loads. Bits per byte are of the held-out ``text``, by default heldout.txt beside the model.
    ``output`` draws them against ms per token, as .png or .svg.

    Raises `RinscError`.
    """
    _check_threads(threads)
    if batch is not None and not 1 <= batch <= MAX_BATCH:
        message = f"{setting('batch')} must be from 1 to {MAX_BATCH}"
        raise UsageError("usage", message, hint="leave it out for one picture")
    picture = None if output is None else Path(output)
    if picture is not None:
        from rinsc.plots import require_picture

        require_picture(picture, "bench.png")
    file = _model_file(os.fspath(model))
    require("numpy", "onnxruntime")
    from rinsc.backends.onnx import Session
    from rinsc.backends.onnx.run.benchmark import metadata_of, own_memory_bytes
    from rinsc.layers import require_language_model
    from rinsc.layers.kind import takes_pictures

    shown = ShownProgress() if progress is None else progress
    memory_before = own_memory_bytes()
    session = Session(file, provider=provider, threads=threads)
    metadata = metadata_of(file)
    every = rounds_by_repeat(rounds, session, metadata[Key.FORM], file)
    if takes_pictures(session.spec):
        from rinsc.verbs.bench_pictures import bench_pictures, check_pictures_settings

        of_text = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "text": text}
        pictures = check_pictures_settings(batch, **of_text, output=output)
        settings = {"threads": threads, "memory_before": memory_before}
        return bench_pictures(session, metadata, every, pictures, shown, **settings)
    require_language_model(session.spec)
    if batch is not None:
        message = f"{setting('batch')} is about pictures, and the model takes tokens"
        raise UsageError("usage", message, hint=f"leave {setting('batch')} out")
    lengths = _lengths(session.spec.context, prompt_tokens, new_tokens)
    size, path = session.spec.vocab_size, None if text is None else Path(text)
    held_out = find_held_out(file, path, size, shown, needed=picture is not None)
    _note_limits(session, every[-1], lengths[0] if prompt_tokens is None else None, shown)
    task = Task(session, metadata, threads, every, lengths, memory_before)
    report = _measure(task, held_out, shown)
    if picture is not None:
        report.draw(picture)
        shown.line(f"wrote {picture}")
    return report


@dataclass(frozen=True)
class Task:
    """What is measured: a session, what its file says of it, and at which rounds."""

    session: Session
    metadata: Mapping[str, str]
    threads: int | None
    rounds: Sequence[Mapping[str, int]]
    lengths: tuple[int, int]  # tokens of the prompt, and new ones
    memory_before: int | None


def _measure(task: Task, held_out: HeldOut | None, progress: Progress) -> BenchReport:
    """Speed at all rounds, then quality, each a task that is shown."""
    from rinsc.backends.onnx.precision import parse_precision
    from rinsc.backends.onnx.run.benchmark import measure_speed, token_cost

    session, metadata = task.session, task.metadata
    prompt_tokens, new_tokens = task.lengths
    with progress.task("measuring the speed") as observe:
        speeds = measure_speed(
            *(session, task.rounds, prompt_tokens, new_tokens),
            memory_before=task.memory_before,
            observe=observe,
        )
    quality = None if held_out is None else _quality(task, held_out, progress)
    middle = prompt_tokens + (new_tokens + 1) // 2  # what a token amid the new ones sees
    precision = parse_precision(metadata[Key.PRECISION])
    rows = []
    for index, (rounds, speed) in enumerate(zip(task.rounds, speeds, strict=True)):
        cost = token_cost(session.graph, rounds, middle, precision, cached=session.has_cache)
        bits = None if quality is None else quality.rows[index].bits_per_byte
        rows.append(BenchRow(rounds, speed, cost, bits))
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


def _quality(task: Task, held_out: HeldOut, progress: Progress) -> Quality:
    from rinsc.evaluation.quality import compare_quality, tokens_to_measure
    from rinsc.graph import build_graph

    with progress.task("measuring the loss on held-out text") as observe:
        return compare_quality(
            *(task.session.logits, None, task.rounds),
            *(held_out.tokens, held_out.token_bytes, task.session.spec.context),
            most_tokens=tokens_to_measure(build_graph(task.session.spec)),
            observe=observe,
        )


def _model_file(model: str) -> Path:
    """The ONNX file that is named, itself or by its folder; raises `CheckpointError`."""
    path = Path(model)
    if (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    if (path / "model.toml").is_file():
        message = "this is the folder of a training run, and not yet a model for ONNX Runtime"
        hint = f"rinsc compile {model} --to onnx --cache --rounds dynamic -o model/"
        raise CheckpointError("not-a-model", message, place=model, hint=hint)
    if path.is_file():
        return path
    message = f"this is neither a model folder ({MODEL_FILE}) nor an ONNX file"
    hint = "make one with rinsc compile MODEL --to onnx --cache --rounds dynamic -o model/"
    raise CheckpointError("not-a-model", message, place=model, hint=hint)


def _check_threads(threads: int | None) -> None:
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        message = f"{setting('threads')} must be from 1 to {MAX_THREADS}"
        raise UsageError("usage", message, hint="leave it out for one a core")


def _lengths(context: int, prompt_tokens: int | None, new_tokens: int | None) -> tuple[int, int]:
    """Tokens of the prompt and new ones: as asked for, else the defaults or what has room."""
    for name, count in (
        (setting("prompt_tokens"), prompt_tokens),
        (setting("new_tokens"), new_tokens),
    ):
        if count is not None and count < 1:
            message = f"{setting(name)} must be at least 1"
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


def _note_limits(
    session: Session, most: Mapping[str, int], prompt_tokens: int | None, progress: Progress
) -> None:
    """What keeps the figures from being those that the user may expect.

    ``prompt_tokens`` are given where nobody asked for so many.
    """
    from rinsc.graph import beyond_training, trained_rounds

    untrained = beyond_training(most, trained_rounds(session.graph))
    if untrained is not None:
        progress.note(untrained)
    if not session.has_cache:
        message = "the model has no cache, so that each token runs the whole sequence; "
        progress.note(message + f"compile it with {setting('cache=True', '--cache')} for speed")
    if prompt_tokens is not None and prompt_tokens < PROMPT_TOKENS:
        message = (
            f"the prompt is shortened from {PROMPT_TOKENS} to {plural(prompt_tokens, 'token')}: "
        )
        progress.note(message + f"the context is {session.spec.context}")


def rounds_by_repeat(
    rounds: Rounds | Sequence[Rounds], session: Session, form: str, file: Path
) -> list[dict[str, int]]:
    """Rounds of every repeat for each number that is asked for, the fewest first.

    By default up to those written, where a repeat with fewer of them than another stays at its own.
    Raises UsageError for rounds that no such model runs, or that this file was not written for.
    """
    from rinsc.graph import several_rounds

    written = dict(session.rounds)
    if rounds is None:
        if form == "fixed" or not written:
            return [written]
        most = rounds_up_to(max(written.values()))
        return [{name: min(count, counts) for name, count in written.items()} for counts in most]
    with option_values():
        every: list[dict[str, int]] = [*several_rounds(session.graph, rounds, written)]
    for counts in every:
        if form == "fixed" and counts != written:
            message = f"the model was compiled for {_shown(written)}, not {_counted(counts)}"
            dial = setting("rounds='dynamic'", "--rounds dynamic")
            hint = f"compile it with {dial}, or leave {setting('rounds')} out"
            raise UsageError("usage", message, place=str(file), hint=hint)
        if form == "gated" and any(count > written[name] for name, count in counts.items()):
            message = f"the model runs at most {_shown(written)}, not {_counted(counts)}"
            hint = "ask for fewer, or compile it with more"
            raise UsageError("usage", message, place=str(file), hint=hint)
    return sorted(every, key=lambda counts: (sum(counts.values()), tuple(counts.values())))


def _shown(counts: Mapping[str, int]) -> str:
    text = _counted(counts)
    return f"{text} round{'s' * (text != '1')}"


def _counted(counts: Mapping[str, int]) -> str:
    return rounds_in_words(counts) if counts else "1"
