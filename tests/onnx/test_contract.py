"""Names that the writer and the runner share are spelled in one place."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from rinsc.backends.onnx import contract
from rinsc.layers import cached

PACKAGE = Path(contract.__file__).parents[2]
SHARED = {
    *(contract.IDS, contract.MASK, contract.LOGITS, contract.PAST, contract.PRESENT),
    *(contract.USED, contract.MODEL_FILE, contract.DATA_FILE, contract.rounds_of(""), "depth"),
    *contract.Key,
}
# Keys of formats that are not ours: inputs of the same name in the config of another runtime.
FOREIGN = {"genai.py": {contract.IDS, contract.MASK, contract.LOGITS}}


def spelled(path: Path) -> Iterator[str]:
    """The shared names among the texts of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in SHARED:
            yield str(node.value)


@pytest.mark.parametrize("room", ["backends/onnx", "verbs"])
def test_nothing_else_spells_a_shared_name(room: str) -> None:
    spellings = {
        path.name: set(spelled(path)) - FOREIGN.get(path.name, set())
        for path in (PACKAGE / room).rglob("*.py")
        if path != Path(contract.__file__)
    }
    assert len(spellings) > 5
    assert {name: names for name, names in spellings.items() if names} == {}


def test_a_spelling_is_found(tmp_path: Path) -> None:
    file = tmp_path / "writer.py"
    file.write_text('names = ["logits", f"rounds_{name}", "logits of"]\n', encoding="utf-8")
    assert set(spelled(file)) == {"logits", "rounds_"}


def test_the_names_are_those_of_the_programs() -> None:
    assert cached.MASK == contract.MASK
    assert contract.present_of(contract.slot_name(contract.PAST, 3, 1)) == "present.3.value"
