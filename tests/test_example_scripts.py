"""The scripts and the notebook of examples/: they run, and print what they promise."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent), "OMP_NUM_THREADS": "1"}


def run(script: str, folder: Path, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / script), *arguments]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_script_is_listed_and_run_here() -> None:
    names = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")}
    assert len(names) >= 7
    listed = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert all(f"({name})" in listed for name in names)
    here = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{name}"' in here for name in names)


def test_a_loop_of_your_own_learns(tmp_path: Path) -> None:
    printed = run("own_loop.py", tmp_path)
    losses = [float(loss) for loss in re.findall(r"loss (\d+\.\d+)", printed)]
    first, *held_out = losses[0], *losses[-4:]
    assert "rounds 4: held-out loss" in printed
    assert all(loss < first - 1 for loss in held_out)
    assert (tmp_path / "own_loop.safetensors").exists()


def test_four_variants_are_ranked_at_equal_flops(tmp_path: Path) -> None:
    rows = [line.split() for line in run("rank_variants.py", tmp_path).splitlines()[1:]]
    losses, flops = ([float(row[column]) for row in rows] for column in (0, 3))
    assert len(rows) == 4
    assert losses == sorted(losses)
    assert max(flops) < 1.03 * min(flops)


def test_a_pass_keeps_the_logits_and_a_wrong_one_is_an_error(tmp_path: Path) -> None:
    printed = run("new_pass.py", tmp_path)
    assert "after:  A ×2, A, B" in printed
    assert "same logits: True" in printed
    assert "a wrong pass: after 'forget'" in printed


def test_an_operation_agrees_in_every_form(tmp_path: Path) -> None:
    printed = run("new_operation.py", tmp_path)
    assert "torch.tanh(" in printed
    passed, every = re.findall(r"(\d+) of (\d+) comparisons hold", printed)[0]
    assert passed == every != "0"


def test_an_exported_model_serves_without_rinsc(tmp_path: Path) -> None:
    import rinsc

    run("export_onnx.py", tmp_path)
    served = run("serve_onnx.py", tmp_path, "To be", "3")
    ids = ast.literal_eval(served[: served.index("]") + 1])
    session = rinsc.Session(str(tmp_path / "model.onnx"), threads=1)
    assert ids == session.generate(list(b"To be"), 16, rounds=3)
    source = (EXAMPLES / "serve_onnx.py").read_text(encoding="utf-8")
    assert "rinsc" not in source
    code = [line for line in source.splitlines()[1:] if line]
    assert len(code) <= 20


def test_the_notebook_runs_and_its_figures_are_those_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nbformat: Any = pytest.importorskip("nbformat")
    nbclient: Any = pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    stored = nbformat.read(EXAMPLES / "rounds.ipynb", as_version=4)
    executed = nbclient.NotebookClient(
        nbformat.from_dict(stored), timeout=240, resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    assert outputs(executed, "image/svg+xml")[0] == outputs(stored, "image/svg+xml")[0]
    assert len(outputs(executed, "image/png")) == 2
    assert streams(executed) == streams(stored)
    quality = ast.literal_eval(outputs(executed, "text/plain")[-2])
    assert list(quality) == [1, 2, 3, 4, 6]
    assert max(quality.values()) < 3.5


def outputs(notebook: Any, kind: str) -> list[str]:
    every = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return [out["data"][kind] for out in every if kind in out.get("data", {})]


def streams(notebook: Any) -> list[str]:
    every = [out for cell in notebook.cells for out in cell.get("outputs", [])]
    return [out["text"] for out in every if out.get("name") == "stdout"]
