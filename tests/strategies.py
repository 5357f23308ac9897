"""Random signatures for property tests."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeAlias

from hypothesis import strategies as st

_Draw: TypeAlias = Callable[[st.SearchStrategy[Any]], Any]

_SAMPLERS = {
    "uniform(1, 4)": 4,
    "choice(1,2,4)": 4,
    "choice(2, 1)": 2,
    "poisson_lognormal(1.5, 0.2)": 9,
    "poisson_lognormal(1, 0.5)": 1,
}
_OWNING = ("adapter=scale", "adapter=shared(1)", "inject=gate", "init=learned, inject=add")
_FROM_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_ADAPTERS = ("linear", "lora(2)", "shared(2)", "scale", "embed", "gate")


@st.composite
def signatures(
    draw: _Draw,
    max_visits: int = 24,
    letters: tuple[str, ...] = ("A", "B", "C", "D2"),
    sizes: bool = True,
    degrees: bool = True,
    options: bool = False,
    block_options: bool = False,
) -> str:
    """The text of a valid signature without free exponents, in any spelling.

    It has at most ``max_visits`` visits, degree included. ``sizes`` puts sizes on some letters,
    ``degrees`` draws degrees up to 3, ``options`` adds options of blocks and repeats, and
    ``block_options`` those of blocks alone; ``each=2`` is one visit for the bound. One in three
    with ``options`` has a repeat with weights of its own inside a plain repeat.
    """
    owned = options and max_visits >= _OWNED_VISITS and draw(st.integers(0, 2)) == 0
    degree = draw(st.sampled_from((1, 1, 1, 2, 3))) if degrees and not owned else 1
    budget = 1
    while (budget + 1) ** degree <= max_visits:
        budget += 1
    text = _owned(draw, letters[:2]) if owned else _items(draw, budget, letters, depth=3)[0]
    if sizes and draw(st.booleans()):
        text = _sized(draw, text, degree)
    if options and not owned:
        text = _with_repeat_options(draw, text, one_sampler=degree > 1)
    if block_options or (options and not (owned and draw(st.booleans()))):
        text = _with_block_options(draw, text)
    return f"{text}@{degree}" if degree > 1 or draw(st.integers(0, 9)) == 0 else text


def layers_that_split(text: str, rounds: int = 1) -> int:
    """A number of layers of which the letters without a size have ``rounds`` in each part."""
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


_OWNED_VISITS = 10


def _owned(draw: _Draw, letters: tuple[str, ...]) -> str:
    """A repeat with weights of its own in a plain one; what stands around them may be alike."""
    before: str = draw(st.sampled_from(letters))
    after: str = draw(st.sampled_from(("", *letters)))
    first: str = draw(st.sampled_from(("", before)))
    last: str = draw(st.sampled_from(("", after)))
    owning = f"{draw(st.sampled_from(letters))}^2{{{draw(st.sampled_from(_OWNING))}}}"
    return f"{first}({before}{owning}{after})^2{last}"


@st.composite
def nested_signatures(draw: _Draw, max_visits: int = 64, degrees: bool = True) -> str:
    """The text of a valid signature with repeats in repeats, most of them with options.

    Few letters, so that what stands around a repeat with weights of its own is often alike; every
    option of blocks and repeats, powers of 1, sizes, and degrees up to 3.
    """
    degree = draw(st.sampled_from((1, 1, 1, 1, 2, 3))) if degrees else 1
    budget = 1
    while (budget + 1) ** degree <= max_visits:
        budget += 1
    letters = draw(st.sampled_from((("A",), ("A", "B"), ("A", "B", "C2"))))
    drawn: list[str] = []  # samplers, whose largest draws multiply
    if degree == 1 and draw(st.integers(0, 2)) == 0:
        text = _around_an_owner(draw, letters)
    else:
        text, _ = _nested(draw, budget, letters, 4, drawn, most_samplers=(2, 1, 0)[degree - 1])
    if draw(st.integers(0, 3)) == 0:
        text = _sized(draw, text, degree)
    if draw(st.booleans()):
        text = _with_block_options(draw, text)
    return f"{text}@{degree}" if degree > 1 else text


def _around_an_owner(draw: _Draw, letters: tuple[str, ...]) -> str:
    """A repeat with weights of its own inside two or three plain ones, each padded with letters."""
    pad = st.sampled_from(("", *letters, letters[0] * 2))
    text = f"{draw(st.sampled_from(letters))}^2{{{draw(st.sampled_from(_OWNING))}}}"
    for _ in range(draw(st.integers(2, 3))):
        text = f"{draw(pad)}({draw(pad)}{text}{draw(pad)})^2{draw(pad)}"
    return text


def _nested(
    draw: _Draw,
    budget: int,
    letters: tuple[str, ...],
    depth: int,
    drawn: list[str],
    most_samplers: int,
) -> tuple[str, int]:
    """Text of one to four items with at most ``budget`` visits, and how many visits it has."""
    text, used = "", 0
    for _ in range(draw(st.integers(1, 4))):
        if used == budget:
            break
        left = budget - used
        form = draw(st.sampled_from(("letter", "letter", "plain", "plain", "options")))
        count = 1 if form == "letter" else draw(st.integers(1, min(left, 3)))
        item, visits = draw(st.sampled_from(letters)), 1
        if depth > 0 and form != "letter" and draw(st.integers(0, 3)):
            inner, visits = _nested(draw, left // count, letters, depth - 1, drawn, most_samplers)
            item = f"({inner})"
        used += visits * count
        if form != "letter":
            item += draw(st.sampled_from(_power_spellings(count)))
        if form == "options":
            samplers = tuple(_SAMPLERS) if len(drawn) < most_samplers else ()
            options = _repeat_options(draw, count, samplers)
            drawn += [option for option in options if option.startswith("sample")]
            item += _braces(draw, options)
        text += item
    return text, used


def _power_spellings(count: int) -> tuple[str, ...]:
    return f"^{count}", f"^{{{count}}}", "⁰¹²³⁴⁵⁶⁷⁸⁹"[count], f"^ 0{count}"


def _sized(draw: _Draw, text: str, degree: int) -> str:
    """``text`` with sizes on some letters, each at one of its mentions."""
    names = list(letter_sizes(text))
    for name in names:
        if draw(st.booleans()):
            parts = len(names) ** (degree - 1)
            size = draw(st.integers(parts, 3 * parts))
            places = [m.end() for m in re.finditer(f"{name}(?![0-9])", text)]
            place = draw(st.sampled_from(places))
            text = f"{text[:place]}[{size}]{text[place:]}"
    return text


def _with_repeat_options(draw: _Draw, text: str, one_sampler: bool) -> str:
    """``text`` with options after half of the powers; few samplers, as nested ones multiply."""
    sampled: list[str] = []

    def power(match: re.Match[str]) -> str:
        count = int(match[0].strip("^{} ").translate(_FROM_SUPERSCRIPTS))
        samplers = () if one_sampler and sampled else tuple(_SAMPLERS)
        options = _repeat_options(draw, count, samplers) if draw(st.booleans()) else []
        sampled.extend(option for option in options if option.startswith("sample"))
        return match[0] + _braces(draw, options)

    return re.sub(r"\^ ?[0-9]+|\^\{[0-9]+\}|[¹²³⁴]", power, text)


def _repeat_options(draw: _Draw, count: int, samplers: tuple[str, ...]) -> list[str]:
    """Options that a repeat of ``count`` rounds can have together."""
    inject = draw(st.sampled_from((None, "add", "gate", "concat")))
    starts: tuple[str, ...] = ("carry", "zero", "noise", "learned") if inject else ("carry",)
    adapter = draw(st.sampled_from((None, *_ADAPTERS)))
    law, most = draw(_laws(samplers))
    last = range(1, count + 1) if inject else [count] if count >= most else []
    grad = draw(st.sampled_from((None, *last)))
    ways: tuple[str | None, ...] = (None, "round", "count") if adapter else (None,)
    if grad is not None and grad < count and law in ([], ["skip=0"]):  # what is early never learns
        starts = tuple(start for start in starts if start != "learned")
        ways = ("count",) if adapter else (None,)
    options = {
        "inject": inject,
        "init": draw(st.sampled_from((None, *starts))),
        "adapter": adapter,
        "adapter_by": draw(st.sampled_from(ways)),
        "grad": grad,
        "kv": draw(st.sampled_from((None, "own", "first", "last"))),
    }
    written = [f"{name}={value}" for name, value in options.items() if value is not None]
    return [*law, *written]


@st.composite
def _laws(draw: _Draw, samplers: tuple[str, ...]) -> tuple[list[str], int]:
    """Options that say how rounds are drawn, and the most that a sampler among them draws."""
    law: str = draw(st.sampled_from(("", "skip=0", "skip=0.25", *samplers)))
    if law in _SAMPLERS:
        return [f"sample={law}"], _SAMPLERS[law]
    return [law] if law else [], 0


def _with_block_options(draw: _Draw, text: str) -> str:
    """``text`` with options of visits at some mentions, and of blocks at any of theirs."""
    said: dict[str, list[str]] = {}

    def mention(match: re.Match[str]) -> str:
        if match[1] not in said:
            own = st.sampled_from(("tie=attention", "tie=mlp", "kind=llama", "kind=gpt"))
            said[match[1]] = draw(
                st.lists(own, max_size=2, unique_by=lambda o: o.partition("=")[0])
            )
        visit = st.sampled_from(("each=1", "each=2", "reverse"))
        chosen = draw(st.lists(visit, max_size=2, unique_by=lambda o: o.partition("=")[0]))
        chosen += [option for option in said[match[1]] if draw(st.booleans())]
        return match[0] + ("" if draw(st.booleans()) else _braces(draw, chosen))

    return re.sub(r"([A-Z][0-9]*)(?:\[[0-9]+\])?", mention, text)


def _braces(draw: _Draw, options: list[str]) -> str:
    if not options:
        return ""
    comma: str = draw(st.sampled_from((",", ", ")))
    return "{" + comma.join(draw(st.permutations(options))) + "}"
