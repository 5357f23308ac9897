"""The pictures: every variant is on them, names apart, the same data the same file."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from rinsc.errors import MissingExtraError, OutputError
from rinsc.plots import Curve, apart, curve, draw_training
from rinsc.training.metrics import Metrics

CURVES = [
    Curve("AB", (1e12, 3e12, 2e13), (3.5, 2.6, 2.01)),
    Curve("(A^3)B $x$", (1e12, 3e12, 1.9e13), (3.6, 2.7, 2.05)),
    Curve("A_2", (), ()),
]


def test_both_formats_are_written_and_repeatable(tmp_path: Path) -> None:
    first = draw_training(CURVES, tmp_path / "loss.v1")
    assert [path.name for path in first] == ["loss.v1.png", "loss.v1.svg"]
    contents = [path.read_bytes() for path in first]
    assert [path.read_bytes() for path in draw_training(CURVES, tmp_path / "loss.v1")] == contents
    with Image.open(first[0]) as picture:
        assert picture.size == (1200, 750)
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 100


@pytest.mark.parametrize("curves", [[], [Curve("AB", (1e9,), (4.0,))]])
def test_hardly_anything_to_draw(tmp_path: Path, curves: list[Curve]) -> None:
    assert len(draw_training(curves, tmp_path / "loss")) == 2


def test_only_evaluated_steps_are_points() -> None:
    metrics = [Metrics(s, s, 10 * s, 1.0, 1.0, 1.0, 1.0, 2.0 if s % 2 else None) for s in (1, 2, 3)]
    assert curve("AB", metrics) == Curve("AB", (10, 30), (2.0, 2.0))


@given(heights=st.lists(st.floats(-5, 5), max_size=8), gap=st.floats(0.01, 2))
def test_labels_are_moved_apart_and_no_further(heights: list[float], gap: float) -> None:
    moved = apart(heights, gap)
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed = [moved[index] for index in order]
    assert all(b - a >= gap - 1e-9 for a, b in pairwise(placed))
    assert sum(moved) == pytest.approx(sum(heights), abs=1e-6)
    ordered = sorted(heights)
    if all(b - a >= gap for a, b in pairwise(ordered)):
        assert moved == pytest.approx(heights)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        draw_training(CURVES, tmp_path / "missing" / "loss")


def test_without_matplotlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="matplotlib"):
        draw_training(CURVES, tmp_path / "loss")


def test_importing_the_curves_imports_no_matplotlib() -> None:
    code = "import sys, rinsc.plots as c; print({'matplotlib', 'torch'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout == "set()\n"
