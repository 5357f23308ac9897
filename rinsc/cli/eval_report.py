"""What ``rinsc eval`` found, as tables and as JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rinsc.cli.numbers import exact, rounded_count, rounded_flops
from rinsc.errors import plural
from rinsc.graph import rounds_in_words
from rinsc.verbs.quality import signed

if TYPE_CHECKING:
    from rinsc.evaluation.harness import TaskScore
    from rinsc.evaluation.verdict import Comparison, Difference, Verdict
    from rinsc.training.evaluate import Evaluation
    from rinsc.training.metrics import Part


@dataclass(frozen=True)
class EvalRow:
    """A run at some rounds; ``is_trained`` where training ran or drew them."""

    rounds: Mapping[str, int]
    is_trained: bool
    flops_per_token: int
    quality: Evaluation
    scores: tuple[TaskScore, ...] = ()

    @property
    def label(self) -> str:
        """``3``; a dash where the model has no repeat."""
        return rounds_in_words(self.rounds) or "-"

    @property
    def words(self) -> str:
        """``3 (trained)``."""
        return f"{self.label} (trained)" if self.rounds and self.is_trained else self.label

    def facts(self) -> dict[str, object]:
        """The row as plain data."""
        known: dict[str, object] = {
            "rounds": dict(self.rounds),
            "trained": self.is_trained,
            "forward_flops_per_token": self.flops_per_token,
            "bits_per_byte": _finite(self.quality.bits_per_byte),
            "perplexity": _finite(self.quality.perplexity),
            "accuracy": self.quality.accuracy,
        }
        if self.scores:
            known["tasks"] = [
                {
                    "task": score.task,
                    "metric": score.metric,
                    "value": _finite(score.value),
                    "stderr": None if score.stderr is None else _finite(score.stderr),
                }
                for score in self.scores
            ]
        return known


@dataclass(frozen=True)
class EvalReport:
    """Rows, the text that they were measured on, and the verdict where there is a baseline."""

    run: str
    steps: int
    state: str
    signature: str
    text: str
    held_out: Part
    windows: int
    sequence_length: int
    precision: str
    rows: tuple[EvalRow, ...]
    baseline: EvalRow | None = None
    baseline_run: str = ""
    baseline_state: str = ""
    baseline_signature: str = ""
    baseline_sequence_length: int = 0
    verdict: Verdict | None = None

    @property
    def part_words(self) -> str:
        """Before the number of windows."""
        return "all" if self.held_out == "whole" else "a sample of"

    def facts(self) -> dict[str, object]:
        """The report as plain data."""
        known: dict[str, object] = {
            "run": self.run,
            "steps": self.steps,
            "checkpoint": self.state or None,
            "signature": self.signature,
            "text": self.text,
            "held_out": self.held_out,
            "windows": self.windows,
            "sequence_length": self.sequence_length,
            "bytes": self.rows[0].quality.byte_count,
            "precision": self.precision,
            "rows": [row.facts() for row in self.rows],
        }
        if self.baseline is not None and self.verdict is not None:
            known["baseline"] = {
                "run": self.baseline_run,
                "checkpoint": self.baseline_state or None,
                "signature": self.baseline_signature,
                "sequence_length": self.baseline_sequence_length,
                **self.baseline.facts(),
            }
            known["verdict"] = verdict_facts(self.verdict)
        return known


def verdict_facts(verdict: Verdict) -> dict[str, object]:
    """The verdict as plain data; an interval that is not known is null, and so is ``regret``."""
    return {
        "outcome": verdict.outcome,
        "regret": {"regret": True, "no regret": False}.get(verdict.outcome),
        "undecided_because": verdict.undecided_because,
        "margin": verdict.margin,
        "noise": {"covered": ["text"], "missing": ["seeds"]},
        "equal_training_flops": verdict.is_equal,
        "text": verdict.text,
        "comparisons": [_comparison_facts(each) for each in verdict.comparisons],
    }


def _comparison_facts(found: Comparison) -> dict[str, object]:
    return {
        "equal": found.equal,
        "is_equal": found.is_equal,
        "run": found.ours,
        "baseline": found.theirs,
        "rounds": dict(found.rounds),
        "bits_per_byte": _finite(found.difference.ours),
        "baseline_bits_per_byte": _finite(found.difference.theirs),
        "difference": _finite(found.difference.bits_per_byte),
        "low": _finite(found.difference.low),
        "high": _finite(found.difference.high),
        "blocks": found.difference.blocks,
        "reading": found.difference.reading,
    }


def print_evaluation(report: EvalReport) -> None:
    """The tables on standard output, and below each what it was measured on."""
    from rinsc.cli.output import print_line, print_table

    heads = ("rounds", "FLOP/token", "bits/byte", "perplexity", "accuracy")
    rows = [_cells(row, row.words) for row in report.rows]
    if report.baseline is not None:
        rows.append(_cells(report.baseline, f"baseline {report.baseline_signature}"))
    print_table(heads, rows)
    print_line()
    lengths = plural(report.sequence_length, "token")
    if report.baseline is not None and report.baseline_sequence_length != report.sequence_length:
        lengths += f" (of the baseline: {report.baseline_sequence_length})"
    print_line(
        f"{report.part_words} {plural(report.windows, 'window')} of {lengths} of held-out text of "
        f"{report.text}, {exact(report.rows[0].quality.byte_count)} bytes · {report.precision}"
    )
    if report.state:
        print_line(f"weights: {report.state}")
    if report.baseline_state:
        print_line(f"weights of the baseline: {report.baseline_state}")
    if any(row.scores for row in report.rows):
        _print_tasks(report)
    if report.verdict is not None:
        _print_verdict(report, report.verdict)


def _cells(row: EvalRow, name: str) -> tuple[str, ...]:
    return (
        name,
        rounded_flops(row.flops_per_token).removesuffix("FLOP").rstrip(),
        f"{row.quality.bits_per_byte:.4f}",
        f"{row.quality.perplexity:.2f}",
        f"{100 * row.quality.accuracy:.2f} %",
    )


def _print_tasks(report: EvalReport) -> None:
    """A row for each metric, a column for each number of rounds."""
    from rinsc.cli.output import print_line, print_table

    print_line()
    heads = ["task", "metric", *(row.words for row in report.rows)]
    rows = []
    for place, first in enumerate(report.rows[0].scores):
        figures = [_score(row.scores[place]) for row in report.rows]
        rows.append([first.task, first.metric, *figures])
    print_table(heads, rows, left=(0, 1))


def _score(score: TaskScore) -> str:
    error = "" if score.stderr is None else f" ± {score.stderr:.4f}"
    return f"{score.value:.4f}{error}"


def _print_verdict(report: EvalReport, verdict: Verdict) -> None:
    from rinsc.cli.output import print_line, print_table

    print_line()
    heads = ["at equal", "run", "baseline", "apart", "difference", "95 % interval", "reading"]
    rows = [_comparison_cells(each) for each in verdict.comparisons]
    print_table(heads, rows, left=(0, 6))
    print_line()
    print_line(verdict.text)
    count = verdict.one_round.difference.blocks
    blocks = plural(count, "block", exact(count))
    print_line(f"difference in bits per byte to {report.baseline_signature}, negative is better")
    print_line(f"interval: paired bootstrap over {blocks} of this text, a choice of ours;")
    print_line("noise that it misses: seeds; another seed may differ by more than its width")
    print_line("'no regret' is a word of arXiv 2502.07503 (abstract): better at one round, with")
    print_line("training FLOPs, parameters and inference FLOPs matched")


def _comparison_cells(found: Comparison) -> tuple[str, ...]:
    count = rounded_count if found.equal == "parameters" else rounded_flops
    return (
        f"{found.equal} ({_rounds_in_words(found.rounds)})",
        count(found.ours).removesuffix("FLOP").rstrip(),
        count(found.theirs).removesuffix("FLOP").rstrip(),
        "equal" if found.is_equal else f"{found.percent} %",
        signed(found.difference.bits_per_byte),
        _interval(found.difference),
        found.difference.reading,
    )


def _rounds_in_words(rounds: Mapping[str, int]) -> str:
    """``3 rounds``, or ``A=3, B=2`` where repeats differ."""
    words = rounds_in_words(rounds)
    return words if "=" in words else f"{words} round{'s' * (words != '1')}"


def _interval(found: Difference) -> str:
    if math.isfinite(found.low) and math.isfinite(found.high):
        return f"{signed(found.low)} to {signed(found.high)}"
    return "too little text" if math.isfinite(found.bits_per_byte) else "no numbers"


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None
