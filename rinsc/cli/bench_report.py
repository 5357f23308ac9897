"""What ``rinsc bench`` found, as a table and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rinsc.cli.numbers import exact, rounded_bytes, rounded_flops
from rinsc.errors import plural
from rinsc.graph import rounds_in_words

if TYPE_CHECKING:
    from rinsc.backends.onnx.run.benchmark import Speed, TokenCost
    from rinsc.evaluation.quality import Quality


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
        return {
            "rounds": dict(self.rounds),
            "tokens_per_second": self.speed.tokens_per_second,
            "decode_ms_median": self.speed.decode_ms,
            "decode_ms_p10": self.speed.decode_ms_p10,
            "first_token_ms_median": self.speed.first_token_ms,
            "memory_bytes": self.speed.memory_bytes,
            "bits_per_byte": _finite(self.bits_per_byte),
            "matmul_flops_per_token": self.cost.matmul_flops,
            "touched_bytes_per_token": self.cost.touched_bytes,
            "decoded_tokens": self.speed.decoded_tokens,
            "generations": self.speed.generations,
        }


@dataclass(frozen=True)
class BenchReport:
    """Rows, and what they were measured on; ``threads`` None stands for one a core.

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
    def threads_in_words(self) -> str:
        """``a thread a core``, ``1 thread``, ``2 threads``."""
        if self.threads is None:
            return "a thread a core"
        return f"{self.threads} thread{'s' * (self.threads > 1)}"

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


def print_bench(report: BenchReport) -> None:
    """The table on standard output, and below it what it was measured on."""
    from rinsc.cli.output import print_line, print_table

    heads = ["rounds", "tokens/s", "ms/token", "p10", "first token", "memory", "bits/byte"]
    heads += ["FLOP/token", "read/token"]
    rows = [_cells(row) for row in report.rows]
    shown = [place for place in range(len(heads)) if any(row[place] for row in rows)]
    print_table(
        [heads[place] for place in shown], [[row[place] for place in shown] for row in rows]
    )
    print_line()
    print_line(_measured_on(report))
    if report.exit:
        print_line(f"ends early at {report.exit}; FLOPs and bytes are of all rounds asked for")
    if report.quality is not None:
        windows, length = report.quality.windows.shape
        print_line(
            f"bits per byte on {plural(windows, 'window')} of {plural(length - 1, 'token')} of "
            "held-out text, "
            f"{exact(report.quality.byte_count)} bytes"
        )


def _cells(row: BenchRow) -> list[str]:
    """The row in words; what was not measured is empty."""
    speed, bits = row.speed, row.bits_per_byte
    return [
        row.label,
        _digits(speed.tokens_per_second),
        _digits(speed.decode_ms),
        _digits(speed.decode_ms_p10),
        f"{_digits(speed.first_token_ms)} ms",
        "" if speed.memory_bytes is None else rounded_bytes(speed.memory_bytes),
        "" if bits is None else f"{bits:.4f}",
        rounded_flops(row.cost.matmul_flops).removesuffix("FLOP").rstrip(),
        rounded_bytes(row.cost.touched_bytes),
    ]


def _measured_on(report: BenchReport) -> str:
    """Where and how it ran, in one line."""
    forms = {"fixed": "fixed rounds", "dynamic": "any rounds", "gated": "rounds up to a limit"}
    fewest = min(row.speed.decoded_tokens for row in report.rows)
    words = [
        f"ONNX Runtime on {report.provider}",
        report.threads_in_words,
        report.precision,
        f"{report.operators} operators",
        forms[report.form] if report.written else "no repeat",
        "no cache" if report.cache == "none" else f"cache {report.cache}",
        f"prompt {report.prompt_tokens}",
        f"n = {plural(fewest, 'token')}",
    ]
    return " · ".join(words)


def _digits(number: float) -> str:
    """Three digits and no more: timings are not exact."""
    places = 0 if number >= 100 else 1 if number >= 10 else 2 if number >= 1 else 3
    return f"{number:,.{places}f}"


def _finite(number: float | None) -> float | None:
    """JSON has no NaN."""
    return None if number is None or not math.isfinite(number) else number
