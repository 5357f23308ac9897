"""Texts that are not in the notation, written in it as well as one can guess: for hints alone."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable

# Capitals of Greek and Cyrillic that look like ours.
_LOOK_ALIKE = dict(
    zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧАВЕЅІЈКМНОРСТУХ", "ABEZHIKMNOPTYXABESIJKMHOPCTYX", strict=True)
)
# Wide, mathematical and lowered forms of letters, digits and signs; raised digits are powers.
_FORMS = re.compile("[\uff01-\uff5e\U0001d400-\U0001d7ff₀-₉]")

_ITEM_END = r"(?<=[A-Z0-9)\]}⁰¹²³⁴⁵⁶⁷⁸⁹⁾])"
_ITEM = r"(?=\s*[A-Z(\[])"

# In this order. What a pattern should not have touched makes a text that cannot be read, and so
# no hint.
_RULES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"([\]'\"](?:\s*\*\s*\d+)?)\s*\+\s*(?=[\['\"\d])", r"\1 "),  # lists and texts of Python, added
    (r"\^\s*\{?\s*(?=[⁰¹²³⁴⁵⁶⁷⁸⁹])", ""),  # A^³
    (r"([×✕⨯]\s*)([NRKT])(?![A-Za-z0-9^])", lambda sign: f"^{sign[2].lower()} "),  # A×N
    (r"([A-Z][0-9]*|\([^()]*\))\s*([×*^]\s*\d+)\s*[×*]\s*(\d+)", r"(\1\2)^\3 "),  # A×3×2
    (r"\^\s*\{?\s*(?:×|\\times)\s*(\d+)\s*\}?", r"^\1"),  # A^{×3}
    (r"([×*]\s*\d+)\s*[×*]" + _ITEM, r"\1 "),  # A×3×B
    (r"[\"'`“”‘’]|\\[()\[\]]|^\$+|\$+$", ""),  # quotes, marks of LaTeX
    (r"\\(?:left|right|quad|qquad|big|Big)(?![a-zA-Z])", ""),
    (r"\\(?:mathbf|mathrm|mathit|mathcal|text|operatorname)\s*\{([^{}]*)\}", r"\1"),
    (r"\\cdot(?![a-zA-Z])|[·∗⋅•∙]", "·"),
    (r"\^\s*\[(\w+)\]", r"^\1"),  # A^[3]
    (r"(?<![A-Za-z0-9\]])\[([^\[\]]*)\]", r"(\1)"),  # a list of Python
    (r"(^|[\s(])\{([^{}=,]*)\}", r"\1(\2)"),  # {A}^3
    (r"([A-Z])_(?:\{(\d+)\}|(\d+))", r"\1\2\3"),  # A_1
    (r"ʳ", "^r"),
    (r"ⁿ", "^n"),
    (r"ᵏ", "^k"),
    (r"([A-Z][0-9]*)\((\d+)\)", r"\1^\2"),  # A(3)
    (_ITEM_END + r"\s*(?:[xX·]|times)\s*(?=\d)", "*"),
    (_ITEM_END + r"\s*(\d+)\s*(?:times|x)(?![a-z])", r"*\1"),  # A 3 times
    (r"(\d)\s*(?:[xX·]|times)\s*(?=[A-Z(])", r"\1*"),
    (r"(^|[(,;|\s])(\d+)\s*(?=[A-Z(])", r"\1\2*"),  # 3A
    (_ITEM_END + r"\s*(?:[-–—,;|/>&]|then|and)+" + _ITEM, " "),  # A-A-B
    (r"(?<=[A-Z)\]}⁰¹²³⁴⁵⁶⁷⁸⁹⁾])\s*(?:[×✕⨯·*]|\\times)" + _ITEM, " "),  # A×B
    (r"(\^\{?\w+\}?)\s*(?:[×✕⨯·*]|\\times)" + _ITEM, r"\1 "),  # A^3×B
    (r"(?<!\*)\(([A-Z][0-9]*)\)", r"\1"),
)


def respell(text: str) -> str:
    """The text with what people write elsewhere in place of the notation's own marks."""
    text = _FORMS.sub(lambda form: unicodedata.normalize("NFKC", form[0]), text)
    text = "".join(_LOOK_ALIKE.get(letter, letter) for letter in text)
    for pattern, replacement in _RULES:
        text = re.sub(pattern, replacement, text)
    return text.strip()
