"""``rinsc verify`` and ``rinsc compile``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from rinsc.backends.onnx import Session
from rinsc.backends.torch import load_weights, to_torch
from rinsc.spec import ModelSpec, model_spec
from rinsc.training.run_folder import RunFolder
from rinsc.verification import VerifyRow
from tests.cli.command_line import run_cli
from tests.cli.conftest import SIGNATURE, TINY


def test_verify_prints_every_comparison_and_passes() -> None:
    status, out, err = run_cli("verify", "A^2B", "--layers", "2")
    assert (status, err) == (0, "")
    lines = [line for line in out.splitlines() if line.endswith("ok")]
    assert len(lines) > 8
    assert f"all {len(lines)} comparisons hold for A^2B" in out


@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_verify_fails_with_status_1(monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    rows = [
        VerifyRow("torch", "torch", "logits", 0.0, 0.0),
        VerifyRow("torch", "ONNX", "logits", value, 1e-4),
    ]
    monkeypatch.setattr("rinsc.verification.verify", lambda *_, **__: rows)
    status, out, _ = run_cli("verify", "A")
    assert status == 1
    assert "FAILED" in out
    assert "1 of 2 comparisons failed" in out
    status, out, _ = run_cli("verify", "A", "--json")
    data = json.loads(out)
    assert status == 1
    assert not data["passed"]
    assert [row["passed"] for row in data["rows"]] == [True, False]


def test_compiled_source_runs_without_rinsc(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    status, out, err = run_cli("compile", SIGNATURE, *TINY, "--to", "torch", "-o", str(path))
    assert (status, out) == (0, "")
    assert err.startswith(f"wrote {path}")
    script = (
        "import sys, torch, model\n"
        "print(*model.Model()(torch.zeros(2, 5, dtype=torch.int64), rounds=4).shape)\n"
        "assert 'rinsc' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "2 5 270\n", done.stderr


def test_source_with_fixed_rounds_is_unrolled(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    args = ("compile", SIGNATURE, *TINY, "--to", "torch", "-o", str(path), "--rounds", "3")
    assert run_cli(*args).status == 0
    assert path.read_text().count("= self.A(") == 3


def test_a_run_compiles_with_its_weights(run: Path, onnx_file: Path) -> None:
    module = to_torch(model_spec(run / "model.toml")).eval()
    load_weights(module, RunFolder(run).weights)
    ids = np.arange(12).reshape(2, 6)
    for rounds in (None, 1, 3):
        with torch.no_grad():
            expected = module(torch.from_numpy(ids), rounds=rounds).numpy()
        found = Session(onnx_file).logits(ids, rounds=rounds)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_fixed_onnx_refuses_other_rounds(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "fixed.onnx"
    args = ("compile", str(run), "--to", "onnx", "-o", str(path), "--rounds", "3")
    assert run_cli(*args).status == 0
    words = ("--prompt", "On", "--tokenizer", str(run / "tokenizer.json"))
    assert run_cli("generate", str(path), *words, "--max-new-tokens", "2").status == 0
    status, out, err = run_cli("generate", str(path), *words, "--rounds", "2")
    assert (status, out) == (2, "")
    assert "error[fixed-rounds]: the model was compiled for 3 rounds, not 2\n" in err
    assert "hint: compile it with --rounds dynamic, or leave --rounds out\n" in err


def test_weights_come_from_a_file(run: Path, tmp_path: Path, onnx_file: Path) -> None:
    path = tmp_path / "model.onnx"
    weights = str(RunFolder(run).weights)
    args = ("compile", SIGNATURE, *TINY, "--tied-embedding", "--to", "onnx", "-o", str(path))
    status, _, err = run_cli(*args, "--rounds", "dynamic", "--weights", weights)
    assert status == 0, err
    assert "note:" not in err
    found, expected = (onnx.load(each) for each in (path, onnx_file))
    assert found.graph == expected.graph


def test_a_signature_is_not_a_folder_of_that_name(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("A").symlink_to(run)
    assert run_cli("compile", "A", *TINY, "--to", "torch", "-o", "a.py").status == 0
    assert run_cli("compile", "./A", "--to", "torch", "-o", "run.py").status == 0
    assert "A^2B" not in Path("a.py").read_text()
    assert "A^2B" in Path("run.py").read_text()


def test_a_run_folder_is_verified(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ModelSpec] = []

    def verified(spec: ModelSpec, **_: object) -> list[VerifyRow]:
        seen.append(spec)
        return []

    monkeypatch.setattr("rinsc.verification.verify", verified)
    assert run_cli("verify", str(run)).status == 0
    assert seen == [model_spec(run / "model.toml")]


def test_fresh_weights_are_pointed_out(tmp_path: Path) -> None:
    args = ("compile", SIGNATURE, *TINY, "--to", "onnx", "-o", str(tmp_path / "model.onnx"))
    assert "note: no weights were given" in run_cli(*args).err
