"""What an evaluation found: rows by rounds, the verdict, both as data and as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from rinsc.errors import plural
from rinsc.evaluation.harness import TaskScore
from rinsc.evaluation.matches import main_share, matched_words, matches_table, share_words, shown_on
from rinsc.evaluation.matching import Retrieval, Share
from rinsc.evaluation.verdict import Comparison, Difference, Verdict
from rinsc.graph import rounds_in_words
from rinsc.objectives import Figure, Part, Quality, objective
from rinsc.plots import Mark, draw_evaluation
from rinsc.scalars import Table, exact, html_table, rounded_count, rounded_flops, signed
from rinsc.storage.files import write_atomically

MAX_TITLE, MAX_LABEL = 32, 16  # characters of a signature in a picture


@dataclass(frozen=True)
class EvalRow:
    """A run at some rounds; ``is_trained`` where training ran or drew them."""

    rounds: Mapping[str, int]
    is_trained: bool
    flops_per_token: int
    quality: Quality = field(repr=False)  # with figures of every piece
    scores: tuple[TaskScore, ...] = ()
    zero_shot: Share | None = None
    retrieval: Retrieval | None = None

    @property
    def label(self) -> str:
        """``3``; a dash where the model has no repeat."""
        return rounds_in_words(self.rounds) or "-"

    @property
    def name(self) -> str:
        """``3 (trained)``."""
        return f"{self.label} (trained)" if self.rounds and self.is_trained else self.label

    def facts(self) -> dict[str, object]:
        """The row as plain data."""
        values: dict[str, object] = {
            "rounds": dict(self.rounds),
            "trained": self.is_trained,
            "forward_flops_per_token": self.flops_per_token,
            **{name: _finite(value) for name, value in self.quality.figures.items()},
        }
        if self.zero_shot is not None:
            values["zero_shot"] = self.zero_shot.facts()
        if self.retrieval is not None:
            values["retrieval"] = self.retrieval.facts()
        if self.scores:
            values["tasks"] = [
                {
                    "task": score.task,
                    "metric": score.metric,
                    "value": _finite(score.value),
                    "stderr": None if score.stderr is None else _finite(score.stderr),
                }
                for score in self.scores
            ]
        return values


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
    objective: str = "next_token"
    matched_on: Mapping[str, Any] = field(default_factory=dict)  # classes and retrieval, of towers
    page: str = ""

    def __repr__(self) -> str:
        verdict = "" if self.verdict is None else f", {self.verdict.text}"
        return f"<EvalReport of {self.run}: {plural(len(self.rows), 'row')}{verdict}>"

    def _repr_html_(self) -> str:
        """The rows, what they were measured on, and the verdict, for notebooks."""
        heads = ("rounds", *(figure.head for figure in self.figures), f"FLOPs per {self.unit}")
        rows = [
            (
                row.name,
                *(figure.text(row.quality.figures[figure.name]) for figure in self.figures),
                exact(row.flops_per_token),
            )
            for row in self.rows
        ]
        verdict = "" if self.verdict is None else f"<p>{escape(self.verdict.text)}</p>"
        matches = ""
        if self.matched_on:
            table, lines = matches_table(self.rows), matched_words(self.matched_on)
            matches = html_table(table.heads, table.rows) + f"<p>{escape('; '.join(lines))}</p>"
        measured = f"<p>{escape(self.measured_on)}</p>"
        return f"<div>{html_table(heads, rows)}{measured}{matches}{verdict}</div>"

    @property
    def figures(self) -> Sequence[Figure]:
        """Those of the objective, the main one first."""
        return objective(self.objective).figures

    @property
    def measured_on(self) -> str:
        """``all 359 held-out pictures of digits``."""
        return (
            f"{objective(self.objective).measured_on(self.windows, self.held_out)} of {self.text}"
        )

    @property
    def unit(self) -> str:
        """What a pass is of, whose FLOPs are counted."""
        return "pair" if self.objective == "sigmoid_pairs" else "token"

    @property
    def part_words(self) -> str:
        """Before the number of windows."""
        return "all" if self.held_out == "whole" else "a sample of"

    def facts(self) -> dict[str, object]:
        """The report as plain data."""
        values: dict[str, object] = {
            "run": self.run,
            "steps": self.steps,
            "checkpoint": self.state or None,
            "signature": self.signature,
            "text": self.text,
            "held_out": self.held_out,
            "windows": self.windows,
            "sequence_length": self.sequence_length,
            **self.rows[0].quality.extent,
            "precision": self.precision,
            **self.matched_on,
            **({"page": self.page} if self.page else {}),
            "rows": [row.facts() for row in self.rows],
        }
        if self.baseline is not None and self.verdict is not None:
            values["baseline"] = {
                "run": self.baseline_run,
                "checkpoint": self.baseline_state or None,
                "signature": self.baseline_signature,
                "sequence_length": self.baseline_sequence_length,
                **self.baseline.facts(),
            }
            values["verdict"] = _verdict_facts(self.verdict)
        return values

    def save(self, picture: str | Path) -> None:
        """Write the picture, .png or .svg, and the facts as JSON of the same name beside it."""
        picture = Path(picture)
        figure, share = self.figures[0], main_share(self.rows[0])
        marks = [_mark(row, row.label, figure) for row in self.rows]
        base, other = self.baseline, None
        if base is not None and share is None:
            other = _mark(base, _short(self.baseline_signature, MAX_LABEL), figure)
        title = f"{_short(self.signature, MAX_TITLE)}: quality against rounds"
        length = plural(self.sequence_length, "token")
        windows = f"{self.part_words} {plural(self.windows, 'window')} of {length}"
        subtitle = [f"held-out text of {_short(self.text, MAX_TITLE)}", windows, self.precision]
        if self.objective != "next_token":
            subtitle = [self.measured_on, self.precision]
        better = "lower" if figure.less_is_better else "higher"
        label = figure.words if share is None else share_words(self.rows[0])
        if share is not None:
            better, subtitle = "higher", [shown_on(self.matched_on), self.precision]
        draw_evaluation(
            *(marks, other, title, picture),
            subtitle=" · ".join(subtitle),
            y_label=f"{label} ({better} is better)",
            unit=self.unit,
            chance=None if share is None else share.chance,
        )
        facts = json.dumps(self.facts(), indent=2) + "\n"
        write_atomically(picture.with_suffix(".json"), facts)

    def tables(self) -> list[tuple[Table, list[str]]]:
        """The rows, the tasks and the verdict, as far as there are any; below each what it was
        measured on, line by line, between empty lines."""
        heads = ("rounds", f"FLOP/{self.unit}", *(figure.head for figure in self.figures))
        rows = [self._cells(row, row.name) for row in self.rows]
        if self.baseline is not None:
            rows.append(self._cells(self.baseline, f"baseline {self.baseline_signature}"))
        lines = ["", f"{self._all_measured_on} · {self.precision}"]
        lines += [f"weights: {self.state}"] if self.state else []
        lines += [f"weights of the baseline: {self.baseline_state}"] if self.baseline_state else []
        tables = [(Table(heads, rows), lines)]
        if self.matched_on:
            lines.append("")
            tables.append((matches_table(self.rows), ["", *matched_words(self.matched_on)]))
            if self.page:
                tables[-1][1].append(f"pictures with their nearest captions: {self.page}")
        if any(row.scores for row in self.rows):
            lines.append("")
            tables.append((_tasks_table(self.rows), []))
        if self.verdict is not None:
            tables[-1][1].append("")
            cells = [_comparison_cells(comparison) for comparison in self.verdict.comparisons]
            heads = (
                "at equal",
                "run",
                "baseline",
                "apart",
                "difference",
                "95 % interval",
                "reading",
            )
            tables.append((Table(heads, cells, (0, 6)), self._verdict_lines(self.verdict)))
        return tables

    def _cells(self, row: EvalRow, name: str) -> tuple[str, ...]:
        return (
            name,
            rounded_flops(row.flops_per_token).removesuffix("FLOP").rstrip(),
            *(figure.text(row.quality.figures[figure.name]) for figure in self.figures),
        )

    @property
    def _all_measured_on(self) -> str:
        """`measured_on`, of text with its windows and bytes."""
        if self.objective != "next_token":
            return self.measured_on
        lengths = plural(self.sequence_length, "token")
        if self.baseline is not None and self.baseline_sequence_length != self.sequence_length:
            lengths += f" (of the baseline: {self.baseline_sequence_length})"
        byte_count = exact(self.rows[0].quality.extent["bytes"])
        windows = f"{self.part_words} {plural(self.windows, 'window')} of {lengths}"
        return f"{windows} of held-out text of {self.text}, {byte_count} bytes"

    def _verdict_lines(self, verdict: Verdict) -> list[str]:
        figure, count = self.figures[0], verdict.one_round.difference.blocks
        piece = "block" if self.objective == "next_token" else objective(self.objective).piece
        pieces = plural(count, piece, exact(count))
        better = "negative" if figure.less_is_better else "positive"
        return [
            *("", verdict.text),
            f"difference in {figure.words} to {self.baseline_signature}, {better} is better",
            f"interval: paired bootstrap over {pieces} of this data, a choice of ours;",
            "noise that it misses: seeds; another seed may differ by more than its width",
            "'no regret' is a word of arXiv 2502.07503 (abstract): better at one round, with",
            "training FLOPs, parameters and inference FLOPs matched",
            *["training FLOPs are those since the weights that both began with"]
            * verdict.are_continued,
        ]


def _tasks_table(rows: Sequence[EvalRow]) -> Table:
    """A row for each metric, a column for each number of rounds."""
    heads = ("task", "metric", *(row.name for row in rows))
    scores = zip(*(row.scores for row in rows), strict=True)
    cells = [(of[0].task, of[0].metric, *map(_score, of)) for of in scores]
    return Table(heads, cells, (0, 1))


def _score(score: TaskScore) -> str:
    error = "" if score.stderr is None else f" ± {score.stderr:.4f}"
    return f"{score.value:.4f}{error}"


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


def _mark(row: EvalRow, label: str, figure: Figure) -> Mark:
    ringed, share = row.is_trained and bool(row.rounds), main_share(row)
    if share is not None:
        return Mark(label, row.flops_per_token, share.value, ringed, share.interval)
    return Mark(label, row.flops_per_token, row.quality.figures[figure.name], ringed)


def _verdict_facts(verdict: Verdict) -> dict[str, object]:
    """The verdict as plain data; an interval that is not known is null, and so is ``regret``."""
    return {
        "outcome": verdict.outcome,
        "regret": {"regret": True, "no regret": False}.get(verdict.outcome),
        "undecided_because": verdict.undecided_because,
        "margin": verdict.margin,
        "noise": {"covered": [objective(verdict.objective).noise], "missing": ["seeds"]},
        "equal_training_flops": verdict.is_equal,
        "text": verdict.text,
        "comparisons": [_comparison_facts(comparison) for comparison in verdict.comparisons],
    }


def _comparison_facts(comparison: Comparison) -> dict[str, object]:
    difference = comparison.difference
    return {
        "equal": comparison.equal,
        "is_equal": comparison.is_equal,
        "run": comparison.ours,
        "baseline": comparison.theirs,
        "rounds": dict(comparison.rounds),
        difference.figure.name: _finite(difference.ours),
        f"baseline_{difference.figure.name}": _finite(difference.theirs),
        "difference": _finite(difference.value),
        "low": _finite(difference.low),
        "high": _finite(difference.high),
        "blocks": difference.blocks,
        "reading": difference.reading,
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
