"""docs/training.md is true: its commands run, its options exist."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from rinsc.cli import main
from rinsc.training.run_folder import RunFolder

TOKENIZER = {"tokenizer.json", "tokenizer_config.json"}  # which pictures have no use for
TEXT = (Path(__file__).resolve().parents[2] / "docs" / "training.md").read_text(encoding="utf-8")


def test_its_commands_run_and_write_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^\$ rinsc (.+)$", TEXT, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        assert main(shlex.split(command)) == 0, command
    named = set(re.findall(r"`([a-z_]+\.(?:toml|json|jsonl|safetensors))`", TEXT)) - {"source.json"}
    assert (tmp_path / "runs" / "deeper" / "source.json").exists()
    names: dict[str, Any] = {}
    for example in re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL):
        exec(compile(example, "training.md", "exec"), names)
    assert json.loads((names["trained"].path / "source.json").read_text())["signature"] == "A^2B"
    for run in (tmp_path / "runs").iterdir():
        own = named - ({"config.json"} | TOKENIZER if run.name == "digits" else set())
        assert own <= {path.name for path in run.iterdir()}
    spent = [json.loads(RunFolder(run).result.read_text()) for run in (tmp_path / "runs").iterdir()]
    assert all(each["training_flops"] > 0 for each in spent)


def test_its_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--help"])
    known = set(re.findall(r"--[a-z][a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"--[a-z][a-z-]+", TEXT)) <= known | {"--nproc-per-node"}
