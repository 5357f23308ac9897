"""Numbers of the notation: powers, sizes and degrees are whole; options take any."""

from __future__ import annotations

import math
import re
from typing import Literal

from rinsc.errors import Span
from rinsc.syntax.limits import MAX_DIGITS, MAX_NUMBER_TEXT
from rinsc.syntax.problems import shown, signature_error

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", "⁽⁾")
_EXACT = 2.0**53  # up to here a float without a fraction is exactly a whole number

_EXAMPLES = {"power": "A^3", "size": "A[4]", "degree": "AAB@2"}


def whole_number(
    what: Literal["power", "size", "degree"], text: str, span: Span, source: str
) -> int:
    """The value of a power, a size or a degree: a whole number from 1, at most four digits.

    Raises SignatureError: ``bad-power``, ``bad-size``, ``bad-degree``, ``power-too-large``.
    """
    digits = text.translate(_SUPERSCRIPTS)
    hint = f"as in {_EXAMPLES[what]}"
    if not re.fullmatch("[0-9]+", digits) or not digits.strip("0"):
        message = f"a {what} is a whole number from 1, not {shown(text)}"
        raise signature_error(f"bad-{what}", message, source, span, hint)
    if len(digits.lstrip("0")) > MAX_DIGITS:
        code = "power-too-large" if what == "power" else f"bad-{what}"
        message = f"a {what} has at most {MAX_DIGITS} digits"
        raise signature_error(code, message, source, span, hint)
    return int(digits)


def option_number(text: str, span: Span, source: str) -> int | float:
    """The value of a number in an option; a whole one is an int in every spelling.

    Raises SignatureError (``bad-option-value``) for numbers that are too long or too large.
    """
    value = float(text)
    if len(text) > MAX_NUMBER_TEXT or not math.isfinite(value):
        message = f"{shown(text)} is too long or too large a number"
        hint = f"write at most {MAX_NUMBER_TEXT} characters, as in skip=0.5"
        raise signature_error("bad-option-value", message, source, span, hint)
    if value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value
