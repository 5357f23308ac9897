"""What a precision costs and what a round is worth: loss on held-out text, as a table."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.backends.onnx.contract import Key
from rinsc.cli.numbers import exact
from rinsc.cli.output import print_note
from rinsc.errors import plural
from rinsc.extras import require
from rinsc.storage.files import read_regular_text

if TYPE_CHECKING:
    from rich.progress import Progress

    from rinsc.evaluation.quality import Quality
    from rinsc.graph import BlockGraph, Rounds
    from rinsc.training.run_folder import RunFolder

MOST_ROWS = 8
QUIET_SECONDS = 2.0


@dataclass(frozen=True)
class Report:
    """Loss of an exported model; ``trained`` are the rounds of its run, by repeat."""

    quality: Quality
    precision: str
    provider: str
    trained: Mapping[str, int]

    def facts(self) -> dict[str, object]:
        """The report as plain data."""
        windows, length = self.quality.windows.shape
        rows = []
        for row in self.quality.rows:
            known: dict[str, object] = {"rounds": row.rounds}
            known["fp32_bits_per_byte"] = _json_number(row.exact_bits_per_byte)
            known["bits_per_byte"] = _json_number(row.bits_per_byte)
            known["kl_nats_per_token"] = _json_number(row.divergence_nats)
            rows.append(known)
        return {
            "provider": self.provider,
            "held_out": "sample",
            "windows": windows,
            "sequence_length": length - 1,
            "bytes": self.quality.byte_count,
            "rows": rows,
        }


def measure(
    model: Path, metadata: Mapping[str, str], twin: Path | None, text: str, run: RunFolder
) -> Report:
    """An exported model on held-out text of its run, beside its twin in fp32.

    Raises what `Session` raises, DataError for a tokenizer that does not fit, and
    MissingExtraError.
    """
    require("onnxruntime", "tokenizers")
    from rinsc.backends.onnx import Session
    from rinsc.data.tokenizer import check_vocabulary, load_tokenizer
    from rinsc.evaluation.quality import compare_quality, tokens_to_measure
    from rinsc.graph import build_graph

    words = load_tokenizer(run.tokenizer)
    session = Session(model)
    check_vocabulary(words, session.spec.vocab_size)
    twin_logits = None if twin is None else Session(twin, provider=session.provider).logits
    trained = _trained_rounds(run, session.graph)
    with LateProgress("measuring the loss on held-out text") as progress:
        quality = compare_quality(
            session.logits,
            twin_logits,
            rounds_to_show(metadata[Key.FORM], session.rounds, trained),
            words.encode(text),
            words.token_bytes,
            session.spec.context,
            most_tokens=tokens_to_measure(build_graph(session.spec)),
            observe=progress,
        )
    return Report(quality, metadata[Key.PRECISION], session.provider, trained)


def rounds_to_show(
    form: str, written: Mapping[str, int], trained: Mapping[str, int]
) -> list[dict[str, int]]:
    """Rounds by repeat, at most `MOST_ROWS` times: those written and trained, and less of them.

    Each repeat runs as many, as far as the form has them; a fixed one has those written alone.
    """
    if form == "fixed" or not written:
        return [dict(written)]
    top = max(*written.values(), *trained.values())
    # Where not all of them have a place, the doubled ones come first.
    doubled = [1 << power for power in range(top.bit_length())]
    wanted = [dict(written), dict(trained)]
    wanted += [dict.fromkeys(written, count) for count in (top, *doubled, *range(1, top + 1))]
    shown: list[dict[str, int]] = []
    for each in wanted:
        if form == "gated":
            each = {name: min(count, written[name]) for name, count in each.items()}
        if each not in shown:
            shown.append(each)
        if len(shown) == MOST_ROWS:
            break
    return sorted(shown, key=lambda each: (sum(each.values()), tuple(each.values())))


def _trained_rounds(run: RunFolder, graph: BlockGraph) -> dict[str, int]:
    """The rounds of every repeat in training: those that it was told, else those written."""
    from rinsc.graph import resolve_rounds
    from rinsc.training.config import config_from_toml
    from rinsc.training.schedules import told_rounds

    written = resolve_rounds(graph, None)
    if not run.config.is_file():
        return written
    text = read_regular_text(run.config, "replace")
    config = config_from_toml(text, place=str(run.config))
    return written | told_rounds(graph, config)


def print_report(report: Report) -> None:
    """The table on standard output, and what it was measured on."""
    from rinsc.cli.output import print_line, print_table

    quality, name = report.quality, report.precision
    heads = ["rounds", "fp32 bits/byte"]
    if name != "fp32":
        heads += [f"{name} bits/byte", "difference", "KL nats/token"]
    rows = []
    for row in quality.rows:
        difference = row.bits_per_byte - row.exact_bits_per_byte
        figures = [f"{row.exact_bits_per_byte:.4f}"]
        if name != "fp32":
            figures += [f"{row.bits_per_byte:.4f}", signed(difference)]
            figures.append(f"{row.divergence_nats:.2e}")
        rows.append((_rounds_in_words(row.rounds, report.trained), *figures))
    print_table(heads, rows)
    windows, tokens = quality.windows.shape
    print_line()
    print_line(
        f"on a sample of held-out text: {plural(windows, 'window')} of "
        f"{plural(tokens - 1, 'token')}, "
        f"{plural(quality.byte_count, 'byte', exact(quality.byte_count))}"
    )


def signed(difference: float) -> str:
    """Four digits with a sign; what rounds to nothing is ``+0.0000``."""
    return f"{round(difference, 4) + 0.0:+.4f}"


def _rounds_in_words(rounds: Rounds, trained: Mapping[str, int]) -> str:
    """``3 (trained)``; a dash where the model has no repeat."""
    counts = dict(rounds) if isinstance(rounds, Mapping) else {}
    text = counts_in_words(counts) or "-"
    return f"{text} (trained)" if counts and counts == trained else text


def counts_in_words(counts: Mapping[str, int]) -> str:
    """``3``, or ``A=3, B=2`` where repeats differ."""
    if len(set(counts.values())) == 1:
        return str(next(iter(counts.values())))
    return ", ".join(f"{name}={count}" for name, count in counts.items())


def _json_number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


class LateProgress:
    """Says on standard error what takes its time, once it does; told which part is done.

    On a terminal it is a bar that goes away, elsewhere one line.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._start = time.monotonic()
        self._said = False
        self._bar: Progress | None = None

    def __enter__(self) -> LateProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: float) -> None:
        if not self._said and time.monotonic() - self._start >= QUIET_SECONDS:
            self._said = True
            self._begin()
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done)

    def _begin(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        console = Console(file=sys.stderr)
        if not console.is_terminal:
            print_note(f"{self._what} …", flush=True)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(compact=True))
        self._bar = Progress(*columns, console=console, transient=True)
        self._bar.add_task(self._what, total=1.0)
        self._bar.start()
