"""The picture of quality against cost: any number of points, the same data the same file."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from rinsc.errors import MissingExtraError, OutputError
from rinsc.plots import COLOURS, Point, draw_tradeoff


def points(count: int) -> list[Point]:
    return [Point(str(r), 0.5 + 0.6 * r, 2 + 0.3 / r, r == 3) for r in range(1, count + 1)]


@pytest.mark.parametrize("count", [0, 1, 4, 16])
def test_a_picture_of_any_number_of_rounds(count: int, tmp_path: Path) -> None:
    path = tmp_path / "bench.PNG"
    draw_tradeoff(points(count), "$A^3$ B", path)
    with Image.open(path) as picture:
        assert picture.size == (1200, 750)
        colours = {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}
    assert (ImageColor.getrgb(COLOURS[0]) in colours) == (count > 0)


def test_the_same_data_give_the_same_file(tmp_path: Path) -> None:
    contents = []
    for name in ("one.svg", "two.svg"):
        draw_tradeoff(points(4), "(A^3)B", tmp_path / name)
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1]
    assert b"<svg" in contents[0]


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    given = [*points(2), Point("9", 3.0, math.nan), Point("10", 3.5, math.inf)]
    for name, each in (("one.png", given), ("two.png", points(2))):
        draw_tradeoff(each, "A", tmp_path / name)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


@pytest.mark.parametrize("ms", [1e-4, 1e4])
def test_any_speed_has_ticks(ms: float, tmp_path: Path) -> None:
    draw_tradeoff([Point("1", ms, 2.0), Point("2", 2 * ms, 2.0)], "A", tmp_path / "a.png")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        draw_tradeoff(points(2), "A", tmp_path / "missing" / "a.png")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="matplotlib"):
        draw_tradeoff(points(2), "A", tmp_path / "a.png")
