"""Every error says what to do about it: no problem is made without a hint."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "rinsc"


def test_every_problem_has_a_hint() -> None:
    sources = {
        str(path.relative_to(PACKAGE)): path.read_text(encoding="utf-8")
        for path in PACKAGE.rglob("*.py")
    }
    assert _without_hint(sources) == []


@pytest.mark.parametrize(
    "source",
    [
        "Problem('code', 'message')",
        "Problem('code', 'message', hint=None)",
        "def _error(message, hint):\n    return Problem('c', message, hint=hint)\n_error('m')",
        "def _error(message, hint=None):\n    return 1\n_error('m', None)",
    ],
)
def test_a_missing_hint_is_found(source: str) -> None:
    assert len(_without_hint({"x.py": source})) == 1


def _without_hint(sources: dict[str, str]) -> list[str]:
    """Calls of `Problem`, and of functions with a parameter ``hint``, that pass none."""
    trees = {name: ast.parse(source) for name, source in sources.items()}
    public = {"Problem": 5}  # where the hint stands among the arguments
    for tree in trees.values():
        places = _functions_with_hint(tree)
        public.update({name: place for name, place in places.items() if name[0] != "_"})
    return [
        f"{name}:{call.lineno}: {ast.unparse(call)}"
        for name, tree in trees.items()
        for call in _calls_without_hint(tree, public | _functions_with_hint(tree))
    ]


def _calls_without_hint(tree: ast.AST, places: dict[str, int]) -> list[ast.Call]:
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in places
        and not _passes_hint(node, places[node.func.id])
    ]


def _functions_with_hint(tree: ast.AST) -> dict[str, int]:
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            names = [argument.arg for argument in (*node.args.args, *node.args.kwonlyargs)]
            if "hint" in names:
                found[node.name] = names.index("hint")
    return found


def _passes_hint(call: ast.Call, place: int) -> bool:
    if any(isinstance(argument, ast.Starred) for argument in call.args):
        return True
    given = [keyword.value for keyword in call.keywords if keyword.arg == "hint"]
    given += call.args[place : place + 1]
    return any(not (isinstance(value, ast.Constant) and value.value is None) for value in given)
