"""The tables of ``rinsc zoo``: entries, one entry with its claims, variants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from textwrap import fill

from rinsc.cli.numbers import exact, rounded_count
from rinsc.cli.tables import console, print_line, print_table
from rinsc.cli.words import short_text
from rinsc.cost.adapters import share_text
from rinsc.sweep.claims import Claim, Figures
from rinsc.sweep.costed import Costed
from rinsc.sweep.listing import listed
from rinsc.sweep.zoo import ZooEntry

MAX_REPEATS = 4
SIGNATURE_WIDTHS = (10, 30)  # in the list of entries, where there is little room and where much
WIDTH_WITH_ADAPTERS = 96  # of a terminal with room for their share in the list of entries
GAP = 2  # between two columns of a table


def rounds_text(expected: Mapping[str, int | float]) -> str:
    """``A 1.5, B 2``; a dash where there is nothing to repeat."""
    return listed([f"{name} {mean:g}" for name, mean in expected.items()], MAX_REPEATS) or "-"


def print_entries(entries: Iterable[tuple[ZooEntry, Figures]]) -> None:
    """A row an entry; signatures get what the terminal's width leaves them.

    A narrow terminal has no column for the share of adapters, which few entries have.
    """
    width = console().width
    heads = ("name", "signature", "params", "adapters", "ratio", "rounds", "arXiv")
    rows = [
        (
            entry.name,
            figures.signature,
            rounded_count(figures.parameters),
            share_text(figures.adapter_share) if figures.adapter_share else "-",
            f"{figures.cost_ratio:.3f}",
            rounds_text(figures.expected_rounds),
            entry.source.arxiv or "-",
        )
        for entry, figures in entries
    ]
    if width < WIDTH_WITH_ADAPTERS:
        heads, *rows = [(*row[:3], *row[4:]) for row in (heads, *rows)]  # type: ignore[assignment]
    others = [max(map(len, column)) + GAP for column in zip(heads, *rows, strict=True)]
    least, most = SIGNATURE_WIDTHS
    room = min(max(width - sum(others) + others[1] - GAP, least), most)
    print_table(
        heads,
        [(name, short_text(signature, room), *rest) for name, signature, *rest in rows],
        left=(0, 1, len(heads) - 1),
    )


def print_entry(
    entry: ZooEntry, figures: Figures, claims: Sequence[Claim], drawing: Iterable[str]
) -> None:
    """What the entry is and where it is from, its claims beside our figures, its drawing."""
    width = console().width
    source = entry.source
    print_line(entry.name, style="bold")
    print_line(figures.signature)
    published = f"{source.title} ({source.reference}, {source.year})"
    print_line(fill(published, width, break_long_words=False, break_on_hyphens=False))
    if source.note is not None:
        print_line(fill(f"note: {source.note}", width), style="dim")
    print_line()
    print_table(
        ("", "expected", "within", "here", ""),
        [
            (
                claim.name,
                _number(claim.expected),
                f"{100 * claim.tolerance:g} %" if claim.tolerance else "",
                _number(claim.here),
                "ok" if claim.holds else "!DIFFERS",
            )
            for claim in claims
        ],
        left=(0, 4),
    )
    print_line()
    print_line(f"cost ratio                   {figures.cost_ratio:.3f} against {figures.baseline}")
    print_line(f"expected rounds in training  {rounds_text(figures.expected_rounds)}")
    print_line(f"share of adapters            {share_text(figures.adapter_share)}")
    print_line()
    for line in drawing:
        print_line(line)


def variant_row(variant: Costed, idea: str, width: int) -> str:
    """A row of a table that is printed while it is made, under `variant_heads`."""
    figures = (rounded_count(variant.parameters), exact(variant.executed_layers))
    row = _row(variant.signature, *figures, f"{variant.cost_ratio:.3f}", width)
    even = variant.layers_if_even
    uneven = "" if even is None else f"uneven: {even:g} layer{'s' * (even != 1)} if even"
    return f"{row}  {'; '.join(filter(None, (uneven, idea)))}".rstrip()


def variant_heads(width: int) -> str:
    """The line of heads, with a first column of this width."""
    return _row("signature", "parameters", "layers", "ratio", width)


def _row(signature: str, parameters: str, layers: str, ratio: str, width: int) -> str:
    return f"{signature:<{width}} {parameters:>10} {layers:>7} {ratio:>7}"


def _number(value: int | float) -> str:
    return exact(value) if isinstance(value, int) else f"{value:.4g}"
