"""Imports point one way, and each library is imported in its one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project.import_rules import ORDER, circles, violations

PACKAGE = Path(__file__).resolve().parents[2] / "rinsc"


def test_imports_point_one_way() -> None:
    assert violations(PACKAGE) == []


def test_no_modules_import_each_other() -> None:
    assert circles(PACKAGE) == []


@pytest.mark.parametrize("back", ["import rinsc.spec.b", "def f():\n    from .b import g"])
def test_a_circle_is_found(tmp_path: Path, back: str) -> None:
    package = _package(tmp_path, "spec/a.py", back)
    assert circles(package) == []
    _package(tmp_path, "spec/b.py", "if TYPE_CHECKING:\n    from rinsc.spec.a import f")
    assert circles(package) == [["spec.a", "spec.b"]]


def test_every_part_has_a_place() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    folders = {path.parent.name for path in PACKAGE.glob("*/*.py")}
    assert files | folders <= set(ORDER)


@pytest.mark.parametrize(
    ("file", "source", "message"),
    [
        ("syntax/tree.py", "from rinsc.graph.nodes import Visit", "'syntax' stands before 'graph'"),
        ("syntax/tree.py", "from ..graph import nodes", "'syntax' stands before 'graph'"),
        ("errors.py", "import rinsc.spec", "'errors' stands before 'spec'"),
        ("errors.py", "def f():\n    from . import spec", "'errors' stands before 'spec'"),
        ("cost/flops.py", "from rinsc import to_onnx", "'cost' stands before 'to_onnx'"),
        ("syntax/printer.py", "import lark.tree", "lark may be imported only in syntax.parser"),
        ("cost/flops.py", "import networkx as nx", "networkx may be imported only in graph"),
        ("graph/draw.py", "def f():\n    import torch", "torch may be imported only in"),
        ("training/run.py", "from onnxruntime import InferenceSession", "onnxruntime may be"),
        ("cli/train.py", "import torch", "torch must be imported inside the function"),
        ("cli/verify.py", "import_module('rinsc.nowhere')\nimport onnx", "onnx may be imported"),
        ("variants/hub.py", "import transformers", "transformers may be imported only in"),
        ("helpers.py", "from rinsc.errors import Span", "'helpers' has no place in ORDER"),
        (
            "backends/onnx/emit.py",
            "from rinsc.backends.torch.emit import emit",
            "may not know each other",
        ),
    ],
)
def test_a_violation_is_found(tmp_path: Path, file: str, source: str, message: str) -> None:
    package = _package(tmp_path, file, source)
    found = violations(package)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("syntax/parser.py", "import lark\nfrom rinsc.errors import Span"),
        ("syntax/printer.py", "from .tree import Node\nfrom ..errors import Span"),
        ("backends/torch/emit.py", "import torch.nn\nfrom rinsc.backends.source import Source"),
        ("cli/train.py", "def train():\n    import torch\n    from rinsc.training import fit"),
        ("cli/train.py", "if TYPE_CHECKING:\n    from torch.nn import Module"),
        ("cost/flops.py", "import json\nfrom math import prod"),
    ],
)
def test_a_lawful_import_passes(tmp_path: Path, file: str, source: str) -> None:
    assert violations(_package(tmp_path, file, source)) == []


def _package(folder: Path, file: str, source: str) -> Path:
    path = folder / "rinsc" / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(source, encoding="utf-8")
    return folder / "rinsc"
