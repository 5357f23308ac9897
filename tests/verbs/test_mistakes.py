"""A value of the wrong kind is one error of ours, with what to write in its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import rinsc
from rinsc.errors import RinscError

TRAIN: dict[str, Any] = {"data": "plays", "budget": "2steps"}
MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "towers": (lambda at: rinsc.train("image: A, text: B", output=at, **TRAIN), "several-towers"),
    "settings": (lambda at: rinsc.train("A", output=at, **TRAIN, settings=[1]), "bad-type"),  # type: ignore[arg-type]
    "budget": (lambda at: rinsc.train("A", output=at, data="plays", budget=5), "bad-type"),  # type: ignore[arg-type]
    "data": (lambda at: rinsc.train("A", output=at, data=None), "bad-type"),  # type: ignore[arg-type]
    "windows": (lambda at: rinsc.evaluate(at, windows="many"), "bad-type"),  # type: ignore[arg-type]
    "form": (lambda at: rinsc.export("A", at, 5), "bad-type"),  # type: ignore[arg-type]
    "prompts": (lambda at: rinsc.generate(at, 5), "bad-type"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_value_of_another_kind_is_one_error(name: str, tmp_path: Path) -> None:
    call, code = MISTAKES[name]
    with pytest.raises(RinscError) as caught:
        call(tmp_path / "out")
    assert [problem.code for problem in caught.value.problems] == [code]
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []
