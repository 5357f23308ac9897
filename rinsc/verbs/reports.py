"""What is said of an exported model: its loss on held-out text by rounds, and what `rinsc.bench`
measured."""

from __future__ import annotations

import math
import os
from codecs import getincrementaldecoder
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.backends.onnx.contract import Key
from rinsc.errors import DataError, RinscError, plural, setting
from rinsc.extras import require
from rinsc.graph import Rounds, rounds_in_words
from rinsc.scalars import html_table, rounded_bytes, rounded_flops, short_text, signed
from rinsc.storage.files import read_regular_text

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rinsc.backends.onnx.run.benchmark import Speed, TokenCost
    from rinsc.data.pieces import TokenIds
    from rinsc.evaluation.quality import Quality
    from rinsc.graph import BlockGraph
    from rinsc.progress import Progress
    from rinsc.training.run_folder import RunFolder

MOST_ROWS = 8
MAX_TITLE = 40  # characters of the signature
HEADS = (
    *("rounds", "tokens/s", "ms/token", "p10", "first token"),
    *("memory", "bits/byte", "FLOP/token", "read/token"),
)
MAX_BYTES = 1 << 20  # that are read of a text


@dataclass(frozen=True)
class QualityReport:
    """Loss of an exported model; ``trained`` are the rounds of its run, by repeat."""

    quality: Quality
    precision: str
    provider: str
    trained: Mapping[str, int]

    @property
    def table(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Heads and rows of the table, as text."""
        is_exact, name = self.precision == "fp32", self.precision
        heads = ["rounds", "fp32 bits/byte"]
        heads += [] if is_exact else [f"{name} bits/byte", "difference", "KL nats/token"]
        rows = []
        for row in self.quality.rows:
            cells = [rounds_shown(row.rounds, self.trained), f"{row.exact_bits_per_byte:.4f}"]
            if not is_exact:
                difference = row.bits_per_byte - row.exact_bits_per_byte
                cells += [f"{row.bits_per_byte:.4f}", signed(difference)]
                cells.append(f"{row.divergence_nats:.2e}")
            rows.append(tuple(cells))
        return heads, rows

    def _repr_html_(self) -> str:
        return html_table(*self.table)

    def facts(self) -> dict[str, object]:
        """The report as plain data."""
        windows, length = self.quality.windows.shape
        rows = []
        for row in self.quality.rows:
            values: dict[str, object] = {"rounds": row.rounds}
            values["fp32_bits_per_byte"] = _json_number(row.exact_bits_per_byte)
            values["bits_per_byte"] = _json_number(row.bits_per_byte)
            values["kl_nats_per_token"] = _json_number(row.divergence_nats)
            rows.append(values)
        return {
            "provider": self.provider,
            "held_out": "sample",
            "windows": windows,
            "sequence_length": length - 1,
            "bytes": self.quality.byte_count,
            "rows": rows,
        }


def measure(
    model: Path,
    metadata: Mapping[str, str],
    twin: Path | None,
    text: str,
    run: RunFolder,
    progress: Progress,
) -> QualityReport:
    """An exported model on held-out text of its run, beside its twin in fp32.

    Raises what `Session` raises, DataError for a tokenizer that does not fit, and
    MissingExtraError.
    """
    require("onnxruntime", "tokenizers")
    from rinsc.backends.onnx import Session
    from rinsc.data.tokenizer import check_vocabulary, load_tokenizer
    from rinsc.evaluation.quality import compare_quality, tokens_to_measure
    from rinsc.graph import build_graph

    tokenizer = load_tokenizer(run.tokenizer)
    session = Session(model)
    check_vocabulary(tokenizer, session.spec.vocab_size)
    twin_logits = None if twin is None else Session(twin, provider=session.provider).logits
    trained = _trained_rounds(run, session.graph)
    with progress.task("measuring the loss on held-out text") as observe:
        quality = compare_quality(
            session.logits,
            twin_logits,
            rounds_to_show(metadata[Key.FORM], session.rounds, trained),
            tokenizer.encode(text),
            tokenizer.token_bytes,
            session.spec.context,
            most_tokens=tokens_to_measure(build_graph(session.spec)),
            observe=observe,
        )
    return QualityReport(quality, metadata[Key.PRECISION], session.provider, trained)


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
    candidates = [dict(written), dict(trained)]
    candidates += [dict.fromkeys(written, count) for count in (top, *doubled, *range(1, top + 1))]
    shown: list[dict[str, int]] = []
    for counts in candidates:
        if form == "gated":
            counts = {name: min(count, written[name]) for name, count in counts.items()}
        if counts not in shown:
            shown.append(counts)
        if len(shown) == MOST_ROWS:
            break
    return sorted(shown, key=lambda counts: (sum(counts.values()), tuple(counts.values())))


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


def _json_number(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def rounds_shown(rounds: Rounds, trained: Mapping[str, int]) -> str:
    """``3 (trained)``; a dash where the model has no repeat."""
    counts = dict(rounds) if isinstance(rounds, Mapping) else {}
    text = rounds_in_words(counts) or "-"
    return f"{text} (trained)" if counts and counts == trained else text


@dataclass(frozen=True)
class HeldOut:
    """Token ids ``(tokens,)``, and how many bytes of text each token of the vocabulary is."""

    tokens: TokenIds
    token_bytes: npt.NDArray[np.int64]


def find_held_out(
    model: Path, text: Path | None, vocab_size: int, progress: Progress, *, needed: bool
) -> HeldOut | None:
    """``text``, or heldout.txt beside the model, in tokens of the tokenizer that stands there.

    What keeps them from being read is told: where they are asked for, by a ``text`` or because
    they are ``needed``, as an error (`DataError`, `MissingExtraError`), else in a note and None.
    """
    try:
        return _read(text or model.parent / "heldout.txt", model, vocab_size)
    except RinscError as error:
        if needed or text is not None:
            raise
        problem = error.problems[0]
        where = "" if problem.place is None else f", {problem.place}"
        progress.note(f"bits per byte are left out: {problem.message}{where} ({problem.hint})")
        return None


def _read(path: Path, model: Path, vocab_size: int) -> HeldOut:
    from rinsc.data.tokenizer import check_vocabulary, load_tokenizer

    hint = f"name a text file with {setting('text')}, "
    hint += f"or compile the run with {setting('held_out')}"
    text = read_beginning(path, "there is no held-out text", hint)
    file = model.parent / "tokenizer.json"
    if not file.is_file():
        hint = "put the tokenizer.json of the model's run beside the model"
        raise _error("no-tokenizer", "there is no tokenizer", file, hint)
    tokenizer = load_tokenizer(file)
    check_vocabulary(tokenizer, vocab_size)
    tokens = tokenizer.encode(text)
    if len(tokens) < 2:
        message = "the held-out text is too short to be predicted"
        raise _error("too-little-text", message, path, "give a text of some sentences")
    return HeldOut(tokens, tokenizer.token_bytes)


def read_beginning(path: Path, missing: str, hint: str) -> str:
    """The first `MAX_BYTES` of a text; raises DataError, with ``missing`` where there is none."""
    if not path.is_file():
        raise _error("no-text", missing, path, hint)
    try:
        with path.open("rb") as file:
            # Half a character at the end is left out.
            return getincrementaldecoder("utf-8")().decode(file.read(MAX_BYTES))
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        message, hint = f"cannot read the text: {reason}", "check the permissions"
    except UnicodeDecodeError:
        message, hint = "the text is not UTF-8", "give a plain text in UTF-8"
    raise _error("cannot-read", message, path, hint)


def _error(code: str, message: str, path: Path, hint: str) -> DataError:
    return DataError(code, message, place=str(path), hint=hint)


FORMS_IN_WORDS = {
    "fixed": "fixed rounds",
    "dynamic": "any rounds",
    "gated": "rounds up to a limit",
}


def threads_in_words(threads: int | None) -> str:
    """``a thread a core`` for None, ``1 thread``, ``2 threads``."""
    return "a thread a core" if threads is None else plural(threads, "thread")


@dataclass(frozen=True)
class BenchRow:
    """A model at some rounds; ``bits_per_byte`` is None where there is no held-out text."""

    rounds: Mapping[str, int]
    speed: Speed
    cost: TokenCost
    bits_per_byte: float | None

    @property
    def label(self) -> str:
        """``3``; a dash where the model has no repeat."""
        return rounds_in_words(self.rounds) or "-"

    def facts(self) -> dict[str, object]:
        """The row as plain data."""
        bits = self.bits_per_byte
        return {
            "rounds": dict(self.rounds),
            "tokens_per_second": self.speed.tokens_per_second,
            "decode_ms_median": self.speed.decode_ms,
            "decode_ms_p10": self.speed.decode_ms_p10,
            "first_token_ms_median": self.speed.first_token_ms,
            "memory_bytes": self.speed.memory_bytes,
            "bits_per_byte": None if bits is None else _json_number(bits),
            "matmul_flops_per_token": self.cost.matmul_flops,
            "touched_bytes_per_token": self.cost.touched_bytes,
            "decoded_tokens": self.speed.decoded_tokens,
            "generations": self.speed.generations,
        }


@dataclass(frozen=True)
class BenchReport:
    """What `bench` measured: rows, and on what; ``threads`` None stands for one a core.

    ``exit`` says when rounds end early, as ``kl:0.0005``; it is empty where they do not.
    """

    rows: tuple[BenchRow, ...]
    signature: str
    written: Mapping[str, int]
    provider: str
    threads: int | None
    precision: str
    operators: str
    form: str
    exit: str
    has_cache: bool
    in_place: bool
    prompt_tokens: int
    new_tokens: int
    quality: Quality | None

    @property
    def cache(self) -> str:
        """How tokens before the new one are kept: ``in place``, ``copied``, ``none``."""
        if not self.has_cache:
            return "none"
        return "in place" if self.in_place else "copied"

    def facts(self) -> dict[str, object]:
        """The report as plain data."""
        return {
            "signature": self.signature,
            "form": self.form,
            "exit": self.exit or None,
            "written_rounds": dict(self.written),
            "provider": self.provider,
            "threads": self.threads,
            "precision": self.precision,
            "operators": self.operators,
            "cache": self.cache,
            "prompt_tokens": self.prompt_tokens,
            "new_tokens": self.new_tokens,
            "held_out_bytes": None if self.quality is None else self.quality.byte_count,
            "rows": [row.facts() for row in self.rows],
        }

    @property
    def table(self) -> tuple[list[str], list[list[str]]]:
        """Heads and rows as text, without columns that are empty."""
        rows = [_cells(row) for row in self.rows]
        shown = [index for index in range(len(HEADS)) if any(row[index] for row in rows)]
        return [HEADS[index] for index in shown], [[row[index] for index in shown] for row in rows]

    @property
    def conditions(self) -> str:
        """Where and how it ran, in one line."""
        fewest = min(row.speed.decoded_tokens for row in self.rows)
        conditions = [
            f"ONNX Runtime on {self.provider}",
            threads_in_words(self.threads),
            self.precision,
            f"{self.operators} operators",
            FORMS_IN_WORDS[self.form] if self.written else "no repeat",
            "no cache" if self.cache == "none" else f"cache {self.cache}",
            f"prompt {self.prompt_tokens}",
            f"n = {plural(fewest, 'token')}",
        ]
        return " · ".join(conditions)

    def draw(self, output: str | os.PathLike[str]) -> None:
        """Bits per byte against ms per token as a picture, .png or .svg; raises OutputError."""
        from rinsc.plots import Point, draw_tradeoff

        points = [
            Point(row.label, row.speed.decode_ms, row.bits_per_byte, row.rounds == self.written)
            for row in self.rows
            if row.bits_per_byte is not None
        ]
        title = f"{short_text(self.signature, MAX_TITLE)}: quality against cost"
        where = f"ONNX Runtime on {self.provider}", threads_in_words(self.threads)
        subtitle = self.precision, *where, f"prompt of {plural(self.prompt_tokens, 'token')}"
        draw_tradeoff(points, title, Path(output), subtitle=" · ".join(subtitle))

    def __repr__(self) -> str:
        return f"<BenchReport of {self.signature}: {plural(len(self.rows), 'row')}>"

    def _repr_html_(self) -> str:
        return f"<div>{html_table(*self.table)}<p>{escape(self.conditions)}</p></div>"


def _cells(row: BenchRow) -> list[str]:
    """The row in words; what was not measured is empty."""
    speed, bits = row.speed, row.bits_per_byte
    return [
        row.label,
        shown_digits(speed.tokens_per_second),
        shown_digits(speed.decode_ms),
        shown_digits(speed.decode_ms_p10),
        f"{shown_digits(speed.first_token_ms)} ms",
        "" if speed.memory_bytes is None else rounded_bytes(speed.memory_bytes),
        "" if bits is None else f"{bits:.4f}",
        rounded_flops(row.cost.matmul_flops).removesuffix("FLOP").rstrip(),
        rounded_bytes(row.cost.touched_bytes),
    ]


def shown_digits(number: float) -> str:
    """Three digits and no more: timings are not exact."""
    decimals = 0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3
    return f"{number:,.{decimals}f}"
