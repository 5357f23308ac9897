"""Starting fast: what `import rinsc` and `rinsc check` must not import, seen in a fresh process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BACKENDS = {"torch", "onnx", "onnx_ir", "onnxruntime", "transformers", "tokenizers", "matplotlib"}
FORBIDDEN_TO_CHECK = BACKENDS | {"networkx", "numpy"}
FORBIDDEN_TO_IMPORT = FORBIDDEN_TO_CHECK | {"lark", "cyclopts", "rich"}

ROOT = Path(__file__).resolve().parents[2]
IMPORT = "import rinsc"
CHECK = """
import runpy
sys.argv = ["rinsc", "check", "(A^3)B"]
try:
    runpy.run_module("rinsc", run_name="__main__", alter_sys=True)
except SystemExit as stop:
    assert not stop.code, stop.code
"""


def test_import_rinsc_imports_nothing_heavy(tmp_path: Path) -> None:
    assert _loaded(IMPORT, tmp_path) & FORBIDDEN_TO_IMPORT == set()


def test_check_imports_no_backend(tmp_path: Path) -> None:
    assert _loaded(CHECK, tmp_path) & FORBIDDEN_TO_CHECK == set()


@pytest.mark.parametrize("module", ["numpy", "networkx", "lark"])
def test_a_heavy_import_is_seen(tmp_path: Path, module: str) -> None:
    assert module in _loaded(f"{IMPORT}\nimport {module}", tmp_path) & FORBIDDEN_TO_IMPORT


def test_a_heavy_import_by_check_is_seen(tmp_path: Path) -> None:
    assert "numpy" in _loaded(f"import numpy\n{CHECK}", tmp_path) & FORBIDDEN_TO_CHECK


def _loaded(code: str, folder: Path) -> set[str]:
    """Top-level modules that a fresh interpreter holds after running ``code``."""
    report = folder / "modules.json"
    script = (
        "import json, sys\nfrom pathlib import Path\n"
        f"{code}\n"
        f"Path({str(report)!r}).write_text(json.dumps(list(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in json.loads(report.read_text())}
