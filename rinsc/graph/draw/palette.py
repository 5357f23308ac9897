"""One colour for each block, the same in every drawing; stripes too where there are many blocks."""

from __future__ import annotations

from dataclasses import dataclass

from rinsc.graph.nodes import BlockGraph
from rinsc.graph.towers_graph import TowersGraph

# Hues after Okabe and Ito, "Color Universal Design": told apart with any colour vision. Three are
# a little darker than there, so that small white text on them can be read.
HUES = ("#0072b2", "#e69f00", "#007f5c", "#c44f00", "#56b4e9", "#cc79a7", "#f0e442", "#6b7280")

INK = "#1b2330"
PAPER = "#ffffff"
_TOWARDS = ((PAPER, 0.0), (PAPER, 0.55), (INK, 0.45))
READABLE = 4.5  # contrast of text, as WCAG 2 wants it
PLAIN = len(HUES) * len(_TOWARDS)  # blocks that a colour alone tells apart
_ANGLES = (45, 135, 0, 90)


@dataclass(frozen=True)
class Colour:
    """What a box is filled with, and what is written on it."""

    fill: str
    text: str
    stripes: Stripes | None = None


@dataclass(frozen=True)
class Stripes:
    """Lines over a fill, ``angle`` degrees from upright, on which the text can be read as well."""

    colour: str
    angle: int
    spacing: int


def block_colours(graph: BlockGraph | TowersGraph) -> dict[str, Colour]:
    """Colours by block name, in order of first use; no two are alike.

    After `PLAIN` blocks the colours come again with stripes, and a little darker or lighter.
    """
    return {name: _colour(index) for index, name in enumerate(graph.blocks)}


def _colour(index: int) -> Colour:
    towards, amount = _TOWARDS[index // len(HUES) % len(_TOWARDS)]
    fill = _mix(HUES[index % len(HUES)], towards, amount)
    text = max(PAPER, INK, key=lambda text: contrast(fill, text))
    turn = index // PLAIN
    if turn == 0:
        return Colour(fill, text)
    away = INK if text == PAPER else PAPER
    striped = _mix(fill, away, 0.3 * turn / (turn + 4))
    longer, angle = divmod(turn - 1, len(_ANGLES))
    stripes = Stripes(_stripe(striped, text, away), _ANGLES[angle], 8 + 4 * longer)
    return Colour(striped, text, stripes)


def _stripe(fill: str, text: str, away: str) -> str:
    """The colour that is told from the fill most easily, among those that the text allows."""
    shades = [_mix(fill, away, 0.45), _mix(fill, text, 0.15), _mix(fill, text, 0.25)]
    readable = [shade for shade in shades if contrast(shade, text) >= READABLE]
    return max(readable, key=lambda shade: contrast(shade, fill))


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, 1 to 21, as WCAG 2 defines it."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    linear = [
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in (channel / 255 for channel in _channels(colour))
    ]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _mix(colour: str, other: str, amount: float) -> str:
    pairs = zip(_channels(colour), _channels(other), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * amount):02x}" for a, b in pairs)


def _channels(colour: str) -> tuple[int, ...]:
    return tuple(int(colour[at : at + 2], 16) for at in (1, 3, 5))
