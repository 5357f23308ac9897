"""``rinsc train`` and ``rinsc generate``."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rinsc.cost import training_flops
from rinsc.spec import model_spec
from tests.cli.command_line import Result, run_cli
from tests.cli.conftest import SIGNATURE, TINY


def train(corpus: str, folder: Path, *more: str) -> Result:
    return run_cli(
        *("train", SIGNATURE, *TINY, "--data", corpus, "-o", str(folder)),
        *("--batch", "2", "--device", "cpu", *more),
    )


def test_a_run_folder_holds_everything(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert {"model.toml", "train.toml", "data.json", "tokenizer.json", "result.json"} <= names
    assert {"model.safetensors", "metrics.jsonl"} <= names
    assert model_spec(run / "model.toml").text == SIGNATURE


def test_json_goes_to_standard_output_and_progress_does_not(corpus: str, tmp_path: Path) -> None:
    status, out, err = train(corpus, tmp_path / "run", "--steps", "2", "--json")
    assert status == 0, err
    result = json.loads(out)
    assert result["steps"] == 2
    assert result["bits_per_byte"] > 0
    assert "2 steps" in err


@pytest.mark.parametrize("budget", ["tokens", "flops"])
def test_other_budgets_become_steps(corpus: str, run: Path, tmp_path: Path, budget: str) -> None:
    spec = model_spec(run / "model.toml")
    step = {"tokens": 2 * 16, "flops": training_flops(spec, 16, batch=2)}[budget]
    args = (f"--{budget}", str(3 * step - 1), "--json")
    status, out, err = train(corpus, tmp_path / "run", *args)
    assert status == 0, err
    assert json.loads(out)["steps"] == 2


def test_a_run_is_not_overwritten_unasked(corpus: str, run: Path) -> None:
    before = {path: path.read_bytes() for path in run.iterdir()}
    status, out, err = train(corpus, run, "--steps", "2")
    assert (status, out) == (1, "")
    assert "error[run-exists]" in err
    assert {path: path.read_bytes() for path in run.iterdir()} == before


def test_a_stopped_run_is_resumed(
    corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"

    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rinsc.train.loop.write_result", stopped)
        assert train(corpus, folder, "--steps", "3").status == 130
    assert train(corpus, folder, "--steps", "3").status == 1
    status, out, err = train(corpus, folder, "--steps", "3", "--resume", "--json")
    assert status == 0, err
    assert json.loads(out)["steps"] == 3


def test_both_runtimes_generate_the_same_text(run: Path, onnx_file: Path) -> None:
    args = ("--prompt", "On day 3", "--max-new-tokens", "8", "--rounds", "3")
    torch_status, torch_text, _ = run_cli("generate", str(run), *args)
    onnx_status, onnx_text, _ = run_cli("generate", str(onnx_file), *args)
    assert (torch_status, onnx_status) == (0, 0)
    assert torch_text == onnx_text
    assert torch_text.startswith("On day 3")


def test_sampling_is_reproducible_and_json_holds_the_text(run: Path) -> None:
    args = ("generate", str(run), "--prompt", "On", "--temperature", "1", "--json")
    first, again, other = (run_cli(*args, "--seed", seed).out for seed in ("1", "1", "2"))
    assert first == again != other
    assert json.loads(first)["prompt"] == "On"
    assert json.loads(first)["text"]
