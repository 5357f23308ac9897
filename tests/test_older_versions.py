"""What 0.4.0 wrote reads as before: a run, a model folder, a file, a folder for transformers.

``written_by_0_4_0/`` was made by that version's own commands on the text of the licence;
``expected.json`` holds what that version computed from it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import rinsc
from rinsc.backends.torch import load_weights
from tests.cli.command_line import run_cli

OLD = Path(__file__).parent / "written_by_0_4_0"
EXPECTED: dict[str, Any] = json.loads((OLD / "expected.json").read_text())
IDS = [EXPECTED["ids"]]
CLOSE = 1e-4
TRAIN = (
    *("train", "spec.toml", "--data", "text:corpus.txt", "--budget", "12steps"),
    *("--batch", "2", "--seq", "16", "-o", "run"),
)


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that a test may write into, as the folder that commands run in."""
    copy = tmp_path / "old"
    shutil.copytree(OLD, copy)
    monkeypatch.chdir(copy)
    return copy


def gap(logits: Any, expected: list[float]) -> float:
    """The largest difference of the last token's first logits from those expected."""
    last = torch.as_tensor(logits)[0, -1, : len(expected)].detach()
    return float((last - torch.tensor(expected)).abs().max())


def test_a_run_in_pytorch() -> None:
    model = rinsc.to_torch(rinsc.model_spec(OLD / "run" / "model.toml")).eval()
    load_weights(model, OLD / "run" / "model.safetensors")
    for rounds, expected in EXPECTED["torch"].items():
        assert gap(model(torch.tensor(IDS), rounds=int(rounds)), expected) < CLOSE


@pytest.mark.parametrize(("name", "close"), [("one.onnx", CLOSE), ("onnx-folder", 0.02)])
def test_models_in_onnx_runtime(name: str, close: float) -> None:
    session = rinsc.Session(OLD / name, threads=1)
    assert gap(session.logits(IDS), EXPECTED[name]) < close
    if name == "one.onnx":  # of the folder, sums in 8 bits depend on the processor
        assert session.generate(IDS[0], 16) == EXPECTED[f"{name} tokens"]


def test_padded_rows_in_onnx_runtime() -> None:
    """Files of 0.4.0 move no padding themselves."""
    session = rinsc.Session(OLD / "one.onnx", threads=1)
    prompts = [IDS[0], IDS[0][:3], IDS[0][2:]]
    expected = [session.generate(prompt, 12) for prompt in prompts]
    assert session.generate(prompts, 12) == expected


@pytest.mark.parametrize("name", ["run", "hf"])
def test_models_in_transformers(name: str) -> None:
    from transformers import AutoModelForCausalLM

    code = {"trust_remote_code": True} if name == "hf" else {}
    model: Any = AutoModelForCausalLM.from_pretrained(OLD / name, **code)
    model.eval()
    for rounds, expected in EXPECTED["torch"].items():
        assert gap(model(torch.tensor(IDS), rounds=int(rounds)).logits, expected) < CLOSE


def test_the_command_of_a_finished_run_prints_its_result(old: Path) -> None:
    kept = (old / "run" / "result.json").read_bytes()
    again = run_cli(*TRAIN)
    assert again.status == 0, again.err
    assert (old / "run" / "result.json").read_bytes() == kept
    assert "6.1395" in again.out


def test_a_run_goes_on_from_its_checkpoint(old: Path) -> None:
    figure = json.loads((old / "run" / "result.json").read_text())["bits_per_byte"]
    for name in ("result.json", "model.safetensors"):
        (old / "run" / name).unlink()
    done = run_cli(*TRAIN)
    assert done.status == 0, done.err
    result = json.loads((old / "run" / "result.json").read_text())
    assert result["steps"] == 12
    assert abs(result["bits_per_byte"] - figure) < 1e-3


def test_commands_that_take_a_run(old: Path) -> None:
    evaluated = ("eval", "run", "--windows", "2")
    assert "error[unknown-data]" in run_cli(*evaluated).err  # it was trained elsewhere
    assert run_cli(*evaluated, "--data", "text:corpus.txt").status == 0
    assert run_cli(*evaluated).status == 0
    for model in ("run", "onnx-folder"):
        done = run_cli("generate", model, "--prompt", "You may", "--max-new-tokens", "3")
        assert done.status == 0, done.err
    assert run_cli("compile", "run", "--to", "onnx", "-o", "again.onnx").status == 0
