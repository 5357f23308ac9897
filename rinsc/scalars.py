"""Numbers as callers give them: plain ones, and those of numpy, torch and other libraries.

>>> whole(3), whole(3.0), whole(True)
(3, None, None)
>>> real(3), real(0.5), real("0.5")
(3, 0.5, None)
"""

from __future__ import annotations

import math
import operator
import re
from decimal import Decimal
from numbers import Complex, Real
from typing import SupportsFloat, SupportsIndex

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
    found = truth(value)
    number = real(value) if found is None else found
    return value if number is None else number


def whole_count(text: str) -> int:
    """``3000``, ``3_000``, ``3e3`` or ``3k``; raises ValueError for anything else."""
    match = _COUNT.fullmatch(text.strip()) if len(text) <= _MAX_LENGTH else None
    if match is None:
        raise ValueError("write a whole number such as 3000, 3e3, 3k, 10M or 1B")
    digits, exponent, unit = match.groups()
    value = Decimal(re.sub("[_,]", "", digits)).scaleb(int(exponent or 0) + _UNITS[unit])
    if value != value.to_integral_value():
        raise ValueError(f"{text} is not a whole number")
    return int(value)


def _is_complex(value: object) -> bool:
    by_type = isinstance(value, Complex) and not isinstance(value, Real)
    return by_type or "complex" in str(getattr(value, "dtype", ""))
