"""The examples in docstrings: they run, every public name has one, and so do the hard files."""

from __future__ import annotations

import doctest
import inspect
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

import rinsc
from rinsc.layers import kind
from rinsc.spec import kinds

ROOT = Path(__file__).resolve().parents[2]
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
# Files that open with a worked example: the text that goes in, and the text that comes out.
HARD = [
    "rinsc/backends/onnx/write/fusion.py",
    "rinsc/backends/onnx/write/walk.py",
    "rinsc/backends/torch/emit.py",
    "rinsc/backends/torch/statements.py",
    "rinsc/backends/torch/steps.py",
    "rinsc/layers/cached.py",
    "rinsc/syntax/canonical.py",
    "rinsc/syntax/identity.py",
    "rinsc/training/loop.py",
]

# They work on folders and texts: their examples are those of the docs.
VERBS = {"bench", "evaluate", "export", "generate", "import_model", "retrofit", "scan", "train"}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


WITH_EXAMPLES = [
    module_name(path)
    for path in sorted((ROOT / "rinsc").rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.fixture(autouse=True)
def kinds_of_this_program() -> Iterator[None]:
    """What an example registers is forgotten."""
    known = dict(kinds.in_this_program)
    yield
    kinds.in_this_program.clear()
    kinds.in_this_program.update(known)
    for forget in kind.forget_traces:
        forget()


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_its_examples_hold(name: str) -> None:
    results = doctest.testmod(import_module(name), optionflags=FLAGS)
    assert results.failed == 0


def test_many_files_have_examples() -> None:
    assert len(WITH_EXAMPLES) > 20


@pytest.mark.parametrize("file", HARD)
def test_a_hard_file_opens_with_a_worked_example(file: str) -> None:
    assert ">>> " in (import_module(module_name(ROOT / file)).__doc__ or "")


def test_every_public_function_has_an_example() -> None:
    functions = [
        value for name in rinsc.__all__ if inspect.isfunction(value := getattr(rinsc, name))
    ]
    without = {
        value.__name__
        for value in functions
        if value.__name__ not in VERBS and ">>> " not in (inspect.getdoc(value) or "")
    }
    assert len(functions) > 12
    assert without == {"load_weights"}  # that of `save_weights` uses it
