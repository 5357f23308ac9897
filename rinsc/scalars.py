"""Numbers as callers give them: plain ones, and those of numpy, torch and other libraries.

>>> whole(3), whole(3.0), whole(True)
(3, None, None)
>>> real(3), real(0.5), real("0.5")
(3, 0.5, None)
"""

from __future__ import annotations

import math
import operator
from numbers import Complex, Real
from typing import SupportsFloat, SupportsIndex


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


def _is_complex(value: object) -> bool:
    by_type = isinstance(value, Complex) and not isinstance(value, Real)
    return by_type or "complex" in str(getattr(value, "dtype", ""))
