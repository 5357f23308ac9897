"""Outside of the command line, messages name no option: `rinsc.errors.setting` spells settings."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import rinsc
from rinsc.errors import UsageError, settings_as_options

ROOT = Path(rinsc.__file__).parent
OPTION = re.compile(r"(?<![\w-])(?<!var\()--[a-z][\w-]*+(?!:)")  # --ink: is of a style sheet
# An example of a whole command.
COMMAND = re.compile(r"rinsc |torchrun |pip install |apt-get install ")
GIT = "data/packages.py"  # the only module that gives options to another program
SPELLS = {"setting", "_setting", "Setting", "Parameter", "add_argument"}
LIBRARY = [
    path for path in sorted(ROOT.rglob("*.py")) if "cli" not in path.parts and path != ROOT / GIT
]


def options_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and text of every string with an option in it, but for docstrings and what `setting`
    is called with."""
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            skipped.add(node.value)
        if isinstance(node, ast.Call):
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in SPELLS:
                skipped.update(ast.walk(node))
        if isinstance(node, ast.JoinedStr) and COMMAND.search(ast.unparse(node)):
            skipped.update(ast.walk(node))
        if isinstance(node, ast.List) and "'rinsc'" in ast.unparse(node):  # its words, one by one
            skipped.update(ast.walk(node))
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or node in skipped:
            continue
        text = node.value
        if isinstance(text, str) and OPTION.search(text) and not COMMAND.search(text):
            yield node.lineno, text


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_message_names_no_option(path: Path) -> None:
    assert list(options_in(ast.parse(path.read_text(encoding="utf-8")))) == []


def test_an_option_is_found() -> None:
    tree = ast.parse("hint = 'leave --rounds out'; good = setting('rounds', '--rounds')")
    assert list(options_in(tree)) == [(1, "leave --rounds out")]


def test_python_and_the_command_read_their_own_names() -> None:
    from rinsc.training.budget import budget_from_text

    with pytest.raises(UsageError) as caught:
        budget_from_text("much")
    assert "--" not in str(caught.value)
    with settings_as_options(), pytest.raises(UsageError, match="--budget does not take"):
        budget_from_text("much")
