"""Numbers as callers give them, of numpy, torch and other libraries, and as people read them.

>>> whole(3), whole(3.0), whole(True)
(3, None, None)
>>> real(3), real(0.5), real("0.5")
(3, 0.5, None)
>>> exact(1234567), rounded_count(1234567), rounded_bytes(1 << 20)
('1,234,567', '1.23 M', '1.00 MiB')
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Sequence
from numbers import Complex, Real
from typing import NamedTuple, SupportsFloat, SupportsIndex

_UNITS = {"": 0, "k": 3, "M": 6, "G": 9, "B": 9, "T": 12, "P": 15, "E": 18, "Z": 21}
_COUNT = re.compile(r"(\d[\d_,]*(?:\.\d+)?)(?:e\+?(\d{1,2}))?([kMGBTPEZ]?)")
_MAX_LENGTH = 40  # characters; beyond any count that means something


def whole(value: object) -> int | None:
    """A whole number of whatever library as an int; None for anything else.

    Arrays and tensors without dimensions are among them; truth values and floats are not.
    """
    if type(value) is int:  # what torch.compile traces
        return value
    is_truth = isinstance(value, bool) or "bool" in str(getattr(value, "dtype", ""))
    if is_truth or getattr(value, "ndim", 0) != 0 or not isinstance(value, SupportsIndex):
        return None
    try:
        return operator.index(value)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor without memory
        return None


def real(value: object) -> int | float | None:
    """A real number of whatever library as an int or a float; None for anything else.

    Truth values, complex numbers and texts are none. What is beyond all floats is infinite.
    """
    if type(value) is float:
        return value
    if (number := whole(value)) is not None:
        return number
    if truth(value) is not None or getattr(value, "ndim", 0) != 0 or _is_complex(value):
        return None
    if not isinstance(value, SupportsFloat):
        return None
    try:
        return float(value)
    except OverflowError:  # of a fraction or a decimal number
        return math.inf if str(value)[:1] != "-" else -math.inf
    except (TypeError, ValueError, RuntimeError):
        return None


def truth(value: object) -> bool | None:
    """True or False of whatever library as a bool; None for anything else, numbers too."""
    if isinstance(value, bool):
        return value
    if "bool" not in str(getattr(value, "dtype", "")) or getattr(value, "ndim", 0) != 0:
        return None
    try:
        return bool(value)
    except RuntimeError:  # a tensor without memory
        return None


def plain(value: object) -> object:
    """A number, truth value or text as Python has it; anything else as it is."""
    if isinstance(value, str):
        return str.__str__(value)
    logical = truth(value)
    number = real(value) if logical is None else logical
    return value if number is None else number


def whole_count(text: str) -> int:
    """``3000``, ``3_000``, ``3e3`` or ``3k``; raises ValueError for anything else."""
    match = _COUNT.fullmatch(text.strip()) if len(text) <= _MAX_LENGTH else None
    if match is None:
        raise ValueError("write a whole number such as 3000, 3e3, 3k, 10M or 1B")
    from decimal import Decimal  # slow to load

    digits, exponent, unit = match.groups()
    value = Decimal(re.sub("[_,]", "", digits)).scaleb(int(exponent or 0) + _UNITS[unit])
    if value != value.to_integral_value():
        raise ValueError(f"{text} is not a whole number")
    return int(value)


def _is_complex(value: object) -> bool:
    by_type = isinstance(value, Complex) and not isinstance(value, Real)
    return by_type or "complex" in str(getattr(value, "dtype", ""))


_DECIMAL = ("", "k", "M", "G", "T", "P", "E", "Z")
_COUNTS = ("", "k", "M", "B", "T")
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


class Table(NamedTuple):
    """Rows under a line of heads; the columns in ``left`` hold words, the others numbers."""

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)


def signed(difference: float) -> str:
    """Four digits with a sign; what rounds to nothing is ``+0.0000``."""
    return f"{round(difference, 4) + 0.0:+.4f}"


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


def share(count: int, total: int) -> str:
    """``12.3 %``."""
    return f"{100 * count / total:.1f} %" if total else "-"


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

    from html import escape  # of notebooks alone

    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)

    body = "".join(f"<tr>{line(row, 'td')}</tr>" for row in rows)
    head = f"<thead><tr>{line(heads, 'th')}</tr></thead>" if heads else ""
    return f"<table>{head}<tbody>{body}</tbody></table>"
