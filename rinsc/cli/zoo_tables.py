"""The tables of ``rinsc zoo``: entries, one entry with its claims, variants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

from rinsc.cli.numbers import exact, rounded_count
from rinsc.cli.tables import PIPED_WIDTH, print_line, print_table
from rinsc.cli.words import short_text
from rinsc.sweep.claims import Claim, Figures
from rinsc.sweep.costed import Costed
from rinsc.sweep.schedule import listed
from rinsc.sweep.zoo import ZooEntry

SIGNATURE_WIDTH = 18
MAX_REPEATS = 4
ROW = "{:<34} {:>10} {:>8} {:>8}"


def rounds_text(expected: Mapping[str, int | float]) -> str:
    """``A 1.5, B 2``; a dash where there is nothing to repeat."""
    return listed([f"{name} {mean:g}" for name, mean in expected.items()], MAX_REPEATS) or "-"


def print_entries(entries: Iterable[tuple[ZooEntry, Figures]]) -> None:
    """A row an entry."""
    print_table(
        ("name", "signature", "parameters", "cost ratio", "rounds", "source"),
        [
            (
                entry.name,
                short_text(figures.signature, SIGNATURE_WIDTH),
                rounded_count(figures.parameters),
                _ratio(figures.cost_ratio),
                rounds_text(figures.expected_rounds),
                entry.source.short_reference,
            )
            for entry, figures in entries
        ],
        left=(0, 1, 5),
    )


def print_entry(
    entry: ZooEntry, figures: Figures, claims: Sequence[Claim], drawing: Iterable[str]
) -> None:
    """What the entry is and where it is from, its claims beside our figures, its drawing."""
    source = entry.source
    print_line(entry.name, style="bold")
    print_line(figures.signature)
    print_line(f"{source.title} ({source.reference}, {source.year})")
    if source.note is not None:
        print_line(fill(f"note: {source.note}", PIPED_WIDTH), style="dim")
    print_line()
    print_table(
        ("", "claimed", "within", "here", ""),
        [
            (
                claim.name,
                _number(claim.claimed),
                f"{100 * claim.tolerance:g} %" if claim.tolerance else "",
                _number(claim.here),
                "ok" if claim.holds else "!DIFFERS",
            )
            for claim in claims
        ],
        left=(0, 4),
    )
    print_line()
    print_line(f"expected rounds in training  {rounds_text(figures.expected_rounds)}")
    print_line()
    for line in drawing:
        print_line(line)


def variant_row(variant: Costed, idea: str) -> str:
    """A row of a table that is printed while it is made, under `VARIANT_HEADS`."""
    figures = (rounded_count(variant.parameters), exact(variant.executed_layers))
    row = ROW.format(variant.signature, *figures, f"{variant.cost_ratio:.3f}")
    return f"{row}  {idea}".rstrip()


VARIANT_HEADS = ROW.format("signature", "parameters", "layers", "ratio")


def _ratio(ratio: float | None) -> str:
    return "-" if ratio is None else f"{ratio:.3f}"


def _number(value: int | float) -> str:
    return exact(value) if isinstance(value, int) else f"{value:.4g}"
