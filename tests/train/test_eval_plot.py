"""The picture of quality against forward FLOPs: what is drawn, and the same data the same file."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from PIL import Image, ImageColor

from rinsc.errors import OutputError
from rinsc.plots import COLOURS, Mark, canvas, draw_evaluation, draw_marks, with_unit

MARKS = [Mark(str(r), 2e5 + 8e4 * r, 2 + 0.3 / r, r == 3) for r in range(1, 5)]
BASELINE = Mark("AB", 2.8e5, 2.2)


def colours(path: Path) -> set[object]:
    with Image.open(path) as picture:
        return {colour for _, colour in picture.convert("RGB").getcolors(1 << 20) or []}


@pytest.mark.parametrize("count", [0, 1, 4])
@pytest.mark.parametrize("baseline", [None, BASELINE])
def test_points_and_a_baseline(count: int, baseline: Mark | None, tmp_path: Path) -> None:
    path = tmp_path / "eval.png"
    draw_evaluation(MARKS[:count], baseline, "$A^3$ B", path)
    found = colours(path)
    assert (ImageColor.getrgb(COLOURS[0]) in found) == (count > 0)
    assert (ImageColor.getrgb(COLOURS[1]) in found) == (baseline is not None)


@pytest.mark.parametrize("most", [4, 32])
def test_the_label_of_the_baseline_is_inside(most: int) -> None:
    marks = [Mark(str(r), 2e5 + 8e4 * r, 2 + 0.3 / r) for r in (1, most)]
    figure, axes = canvas("A", "", "FLOPs")
    draw_marks(axes, marks, [Mark("A(BC)^2(DE)^3FG…", 2.8e5, 2.2)])
    figure.draw_without_rendering()
    (label,) = (each for each in axes.texts if each.get_text().startswith("A(BC)"))
    box = axes.get_window_extent()
    assert box.x0 < label.get_window_extent().x0
    assert label.get_window_extent().x1 < box.x1


def test_a_ring_is_drawn(tmp_path: Path) -> None:
    plain = [Mark(each.label, each.x, each.quality) for each in MARKS]
    for name, marks in (("ringed.png", MARKS), ("plain.png", plain)):
        draw_evaluation(marks, None, "A", tmp_path / name)
    assert (tmp_path / "ringed.png").read_bytes() != (tmp_path / "plain.png").read_bytes()


def test_the_same_data_give_the_same_file(tmp_path: Path) -> None:
    for name in ("one.svg", "two.svg"):
        draw_evaluation(MARKS, BASELINE, "(A^3)B", tmp_path / name, subtitle="plays")
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    given = [*MARKS, Mark("9", 3e6, math.nan), Mark("10", 4e6, math.inf)]
    draw_evaluation(given, Mark("AB", 1e9, math.nan), "A", tmp_path / "one.png")
    draw_evaluation(MARKS, None, "A", tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        draw_evaluation(MARKS, None, "A", tmp_path / "missing" / "a.png")


@pytest.mark.parametrize(
    ("flops", "words"),
    [(0, "0"), (999, "999"), (1e3, "1k"), (2.5e5, "250k"), (1.5e6, "1.5M"), (3e12, "3T")],
)
def test_units(flops: float, words: str) -> None:
    assert with_unit(flops) == words
