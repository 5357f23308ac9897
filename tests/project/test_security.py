"""Calls that can run or fetch something: docs/security.md lists every one, and says why."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "security.md"
SOURCES = (*sorted((ROOT / "rinsc").rglob("*.py")), ROOT / "rinsc_autoload.py")

# By the last part of the name that is called, however it was imported.
CALLS = frozenset(
    (
        *("eval", "exec", "__import__", "import_module", "find_spec", "entry_points"),
        *("spec_from_file_location", "run_module", "run_path", "exec_module"),
        *("Popen", "check_call", "check_output", "system", "popen", "execv", "spawn"),
        *("Unpickler", "_IndexUnpickler", "load_dataset", "from_pretrained", "TaskManager"),
        *("simple_evaluate", "extractall", "unpack_archive", "urlopen", "CDLL", "connect"),
    )
)
# By module and name, where the last part alone says little.
DOTTED = frozenset(
    (
        *("subprocess.run", "subprocess.call", "torch.load", "np.load", "numpy.load"),
        *("pickle.load", "pickle.loads", "marshal.loads", "shelve.open", "yaml.load"),
        *("tarfile.open", "zipfile.ZipFile", "torch.jit.load", "torch.hub.load"),
    )
)


def _name(node: ast.expr) -> str:
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if isinstance(node, ast.Name):
        parts.append(node.id)
    return ".".join(reversed(parts))


def _calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = _name(node.func)
            last = name.rpartition(".")[2]
            is_method = isinstance(node.func, ast.Attribute) and last in ("eval", "exec")
            if name in DOTTED or (last in CALLS and not is_method):
                yield name if name in DOTTED else last, node


def _in_product() -> Iterator[tuple[str, str, ast.Call]]:
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, node in _calls(tree):
            yield path.relative_to(ROOT).as_posix(), name, node


def test_the_page_lists_every_call_that_can_run_something() -> None:
    listed = set(re.findall(r"^\| `([^`]+\.py)` \| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE))
    assert {(path, name) for path, name, _ in _in_product()} == listed


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import torch\ntorch.load('x')", ["torch.load"]),
        ("from pickle import Unpickler\nUnpickler(f).load()", ["Unpickler"]),
        ("model.eval()\neval('1')", ["eval"]),
        ("import os\nos.system('x')", ["system"]),
        ("class A:\n    def f(self):\n        return subprocess.run(['x'])", ["subprocess.run"]),
    ],
)
def test_the_search_finds_them(text: str, expected: list[str]) -> None:
    assert [name for name, _ in _calls(ast.parse(text))] == expected


def _value(node: ast.Call, key: str) -> object:
    found = next((each.value for each in node.keywords if each.arg == key), None)
    return found.value if isinstance(found, ast.Constant) else None


def test_every_reader_is_told_to_run_nothing() -> None:
    for path, name, node in _in_product():
        if name == "torch.load":
            assert _value(node, "weights_only") is True, path
        if name == "extractall" and _name(node.func).startswith("source"):
            assert _value(node, "filter") == "data", path
        assert _value(node, "trust_remote_code") is not True, path
        assert _value(node, "shell") is not True, path
        assert _value(node, "allow_pickle") is not True, path


def test_python_is_started_without_the_folder_where_you_are() -> None:
    """``python -m`` would import a pip.py or a torch.py that lies there."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.List | ast.Tuple) and node.elts:
                first, *rest = node.elts
                if _name(first) == "sys.executable":
                    assert isinstance(rest[0], ast.Constant), path
                    assert rest[0].value == "-P", path


def test_modules_that_unpickle_are_imported_in_one_place() -> None:
    for path in SOURCES:
        names = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
        found = names & {"pickle", "marshal", "shelve", "dill", "cloudpickle", "runpy"}
        assert not found or path.name == "pickles.py", (path, found)


def test_a_signature_in_a_file_is_never_taken_for_the_name_of_one() -> None:
    """`model_spec` opens what ends in .toml and entries of the zoo; `spec_from_values` does not.
    What it is given comes from a file where it is looked up by the key of a signature."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _name(node.func) == "model_spec" and node.args:
                looked_up = {getattr(each, "value", None) for each in ast.walk(node.args[0])}
                assert "signature" not in looked_up, f"{path}:{node.lineno}"
