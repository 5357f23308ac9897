"""Docs and examples import public names alone, and one page lists them."""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import rinsc

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "api.md"
# Packages whose names programs may import; the page says what each is for.
FACES = (
    *("rinsc", "rinsc.backends.hf", "rinsc.backends.onnx", "rinsc.backends.torch", "rinsc.cost"),
    *(
        "rinsc.data",
        "rinsc.data.pairs",
        "rinsc.errors",
        "rinsc.evaluation",
        "rinsc.generation",
        "rinsc.graph",
    ),
    *(
        "rinsc.graph.draw",
        "rinsc.layers",
        "rinsc.layers.llama",
        "rinsc.layers.mixing",
        "rinsc.ops",
        "rinsc.progress",
    ),
    *("rinsc.sources", "rinsc.spec", "rinsc.study", "rinsc.syntax", "rinsc.training"),
)
LAZY = (
    *("rinsc", "rinsc.backends.onnx", "rinsc.backends.torch"),
    *("rinsc.data", "rinsc.data.pairs", "rinsc.evaluation", "rinsc.training"),
)
FENCE = re.compile(r"^( *)```python\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
ROW = re.compile(r"^\| `([\w.]+)` \|", re.MULTILINE)


def public(face: str) -> set[str]:
    module = import_module(face)
    own = {n for n, value in vars(module).items() if getattr(value, "__module__", "") == face}
    return set(getattr(module, "__all__", own))


def sources() -> Iterator[tuple[str, str]]:
    """Every piece of Python in docs and examples, with where it stands."""
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/**/*.md")):
        for number, match in enumerate(FENCE.finditer(path.read_text(encoding="utf-8"))):
            yield f"{path.relative_to(ROOT)}#{number}", textwrap.dedent(match[2])
    for path in ROOT.glob("examples/**/*.py"):
        yield str(path.relative_to(ROOT)), path.read_text(encoding="utf-8")
    for path in ROOT.glob("examples/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        yield str(path.relative_to(ROOT)), "\n".join(code)


def private_imports(source: str) -> list[str]:
    """What the source imports of rinsc that is not public."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                targets = [alias.name for alias in names if alias.name.startswith("rinsc")]
                found += [target for target in targets if target not in FACES]
            case ast.ImportFrom(module=str(module), names=names) if module.startswith("rinsc"):
                if module not in FACES:
                    found.append(module)
                    continue
                known = public(module) | {n.rpartition(".")[2] for n in FACES if module in n}
                found += [f"{module}.{a.name}" for a in names if a.name not in known]
    return [name for name in found if not name.startswith("rinsc_")]


def test_docs_and_examples_import_public_names() -> None:
    broken, count = {}, 0
    for place, source in sources():
        try:
            private = private_imports(source)
        except SyntaxError:  # a piece that shows what is wrong, or stands for more
            continue
        count += "rinsc" in source
        if private:
            broken[place] = private
    assert broken == {}
    assert count > 25


@pytest.mark.parametrize(
    ("source", "private"),
    [
        ("from rinsc.cli.values import listed", ["rinsc.cli.values"]),
        ("from rinsc import export, find_model", ["rinsc.find_model"]),
        ("import rinsc.verbs.export", ["rinsc.verbs.export"]),
        ("from rinsc.graph import BlockGraph\nimport rinsc, torch", []),
    ],
)
def test_a_private_name_is_found(source: str, private: list[str]) -> None:
    assert private_imports(source) == private


def test_the_page_lists_every_public_name() -> None:
    head, _, packages = PAGE.read_text(encoding="utf-8").partition("## Packages")
    assert sorted(ROW.findall(head)) == sorted(set(rinsc.__all__) - {"__version__"})
    assert set(ROW.findall(packages)) == set(FACES) - {"rinsc"}


@pytest.mark.parametrize("face", LAZY)
def test_names_that_are_stated_once_resolve(face: str) -> None:
    module = import_module(face)
    for name in module.__all__:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = module.nothing
