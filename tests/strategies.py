"""Random signatures for property tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from hypothesis import strategies as st

_Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]

_BLOCK_OPTIONS = ("each=1", "each=2", "reverse", "tie=attention", "kind=llama")
_REPEAT_OPTIONS = (
    "skip=0",
    "skip=0.25",
    "sample=uniform(1, 4)",
    "sample=choice(1,2,4)",
    "sample=poisson_lognormal(32, 0.5)",
    "adapter=lora(8)",
    "adapter_by=round",
    "inject=concat",
    "init=noise",
    "init=carry",
    "grad=8",
    "kv=first",
)


@st.composite
def signatures(
    draw: _Draw,
    max_visits: int = 24,
    letters: tuple[str, ...] = ("A", "B", "C", "D2"),
    sizes: bool = True,
    degrees: bool = True,
    options: bool = False,
) -> str:
    """The text of a valid signature without free exponents, in any spelling.

    It has at most ``max_visits`` visits, degree included. ``sizes`` puts sizes on some letters,
    ``degrees`` draws degrees up to 3, ``options`` adds options of blocks (at degree 1) and repeats.
    """
    degree = draw(st.sampled_from((1, 1, 1, 2, 3))) if degrees else 1
    budget = 1
    while (budget + 1) ** degree <= max_visits:
        budget += 1
    text, _ = _items(draw, budget, letters, depth=3)
    if sizes and draw(st.booleans()):
        text = _sized(draw, text, degree)
    if options:
        text = _with_options(draw, text, block_options=degree == 1)
    return f"{text}@{degree}" if degree > 1 or draw(st.integers(0, 9)) == 0 else text


def layers_that_split(text: str, rounds: int = 1) -> int:
    """A number of layers that splits evenly for ``text``; more of them for larger ``rounds``."""
    sizes = letter_sizes(text)
    parts: int = len(sizes) ** (degree_of(text) - 1)
    unsized = sum(size is None for size in sizes.values())
    return sum(size or 0 for size in sizes.values()) + rounds * parts * unsized


def letter_sizes(text: str) -> dict[str, int | None]:
    """The size of each letter of ``text``, in order of first use, read by a pattern."""
    sizes: dict[str, int | None] = {}
    for letter, size in re.findall(r"([A-Z][0-9]*)(?:\[([0-9]+)\])?", text):
        sizes[letter] = int(size) if size else sizes.get(letter)
    return sizes


def degree_of(text: str) -> int:
    """The degree that ``text`` ends with, else 1."""
    return int(text.partition("@")[2] or 1)


def _items(draw: _Draw, budget: int, letters: tuple[str, ...], depth: int) -> tuple[str, int]:
    """Text of one to four items with at most ``budget`` visits, and how many visits it has."""
    text, used = "", 0
    for _ in range(draw(st.integers(1, 4))):
        left = budget - used
        if left == 0:
            break
        grouped = depth > 0 and draw(st.booleans())
        count = draw(st.integers(1, min(left, 4))) if draw(st.booleans()) else None
        item, visits = draw(st.sampled_from(letters)), 1
        if grouped:
            inner, visits = _items(draw, left // (count or 1), letters, depth - 1)
            item = f"({inner})"
        power = "" if count is None else draw(st.sampled_from(_power_spellings(count)))
        text += item + power + draw(st.sampled_from(("", "", " ")))
        used += visits * (count or 1)
    return text, used


def _power_spellings(count: int) -> tuple[str, ...]:
    return f"^{count}", f"^{{{count}}}", "⁰¹²³⁴⁵⁶⁷⁸⁹"[count], f"^ 0{count}"


def _sized(draw: _Draw, text: str, degree: int) -> str:
    """``text`` with sizes on some letters, each at one of its mentions."""
    names = list(letter_sizes(text))
    for name in names:
        if draw(st.booleans()):
            size = draw(st.integers(1, 3)) * len(names) ** (degree - 1)
            places = [m.end() for m in re.finditer(f"{name}(?![0-9])", text)]
            place = draw(st.sampled_from(places))
            text = f"{text[:place]}[{size}]{text[place:]}"
    return text


def _with_options(draw: _Draw, text: str, block_options: bool) -> str:
    """``text`` with options after some blocks and powers."""
    blocks = _BLOCK_OPTIONS if block_options else _BLOCK_OPTIONS[:1]

    def block(match: re.Match[str]) -> str:
        return match[0] + _braces(draw, blocks)

    def power(match: re.Match[str]) -> str:
        return match[0] + _braces(draw, _REPEAT_OPTIONS)

    text = re.sub(r"[A-Z][0-9]*(\[[0-9]+\])?", block, text)
    return re.sub(r"\^ ?[0-9]+|\^\{[0-9]+\}|[¹²³⁴]", power, text)


def _braces(draw: _Draw, options: tuple[str, ...]) -> str:
    chosen = draw(st.lists(st.sampled_from(options), max_size=2, unique_by=_option_name))
    if not chosen or draw(st.booleans()):
        return ""
    comma: str = draw(st.sampled_from((",", ", ")))
    return "{" + comma.join(chosen) + "}"


def _option_name(option: str) -> str:
    return option.partition("=")[0]
