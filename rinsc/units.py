"""Numbers for people, grouped and rounded with a unit; long texts shortened; tables of HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_DECIMAL = ("", "k", "M", "G", "T", "P", "E", "Z")
_COUNTS = ("", "k", "M", "B", "T")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def exact(number: int) -> str:
    """``1,234,567``."""
    return f"{number:,}"


def rounded_count(number: int) -> str:
    """Parameters and tokens: ``1.23 M``, ``7.00 B``."""
    return _rounded(number, _COUNTS, 1000)


def rounded_flops(number: int) -> str:
    """``1.23 GFLOP``."""
    text = _rounded(number, _DECIMAL, 1000)
    return f"{text}FLOP" if " " in text else f"{text} FLOP"


def rounded_bytes(number: int) -> str:
    """``1.23 MiB``."""
    return _rounded(number, _BINARY, 1024)


def share(part: int, whole: int) -> str:
    """``12.3 %``."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def ratio(value: int, baseline: int) -> str:
    """``1.500 x``."""
    return f"{value / baseline:.3f} x" if baseline else "-"


def _rounded(number: int, units: tuple[str, ...], base: int) -> str:
    """At least three digits and a unit; a number below ``base`` stands as it is."""
    if number < base:
        return f"{number} {units[0]}".rstrip()
    value = float(number)
    power = 0
    # 999.96 would round up to a fourth digit.
    while value >= base - 0.005 * base / 1000 and power < len(units) - 1:
        value /= base
        power += 1
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:.{digits}f} {units[power]}"


def short_text(text: str, most: int) -> str:
    """The text, cut to ``most`` characters where it is longer."""
    return text if len(text) <= most else text[: most - 1] + "…"


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that a notebook shows."""

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    head = f"<thead><tr>{line(heads, 'th')}</tr></thead>" if heads else ""
    return f"<table>{head}<tbody>{body}</tbody></table>"
