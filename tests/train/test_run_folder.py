"""Starting in a folder: a run that is there already is never lost by accident."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rinsc.errors import CheckpointError, OutputError, RinscError
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse
from rinsc.training.checkpoint import checkpoints, publish, start_draft
from rinsc.training.config import TrainConfig, config_from_toml
from rinsc.training.resuming import require_same_run
from rinsc.training.run_folder import (
    RunFolder,
    check_run_folder,
    open_run_folder,
    write_inputs,
    write_result,
)

RECORD = {"corpus": "plays", "tokenizer": {"vocab_size": 307}}


@pytest.fixture
def unfinished(tmp_path: Path, spec: ModelSpec, config: TrainConfig) -> RunFolder:
    folder = open_run_folder(tmp_path / "runs" / "one")
    write_inputs(folder, spec, config, RECORD)
    (folder.path / "notes.txt").write_text("mine")
    return folder


def test_the_inputs_read_back(unfinished: RunFolder, spec: ModelSpec, config: TrainConfig) -> None:
    assert model_spec(unfinished.model_spec) == spec
    assert config_from_toml(unfinished.config.read_text()) == config
    assert json.loads(unfinished.data_record.read_text()) == RECORD
    assert {"rinsc", "python", "torch"} <= json.loads(unfinished.environment.read_text()).keys()


def test_an_unfinished_run_is_gone_on_with_unless_it_is_to_be_removed(
    unfinished: RunFolder,
) -> None:
    (start_draft(unfinished.path, 3) / "model.bin").touch()
    publish(unfinished.path, 3, keep=2)
    start_draft(unfinished.path, 4)
    unfinished.tensorboard.mkdir()
    assert unfinished.is_begun
    assert open_run_folder(unfinished.path).config.exists()
    assert [each.step for each in checkpoints(unfinished.path)] == [3]
    again = open_run_folder(unfinished.path, overwrite=True)
    assert not again.is_begun
    assert [path.name for path in again.path.iterdir()] == ["notes.txt"]


def test_a_finished_run_is_only_overwritten_when_asked(unfinished: RunFolder) -> None:
    write_result(unfinished, {"steps": 7})
    open_run_folder(unfinished.path)  # the model is not there
    unfinished.weights.write_bytes(b"weights")
    with pytest.raises(OutputError, match="a finished run"):
        open_run_folder(unfinished.path)
    assert unfinished.result.exists()
    open_run_folder(unfinished.path, overwrite=True)
    assert not unfinished.result.exists()


def test_asking_first_changes_nothing(unfinished: RunFolder, tmp_path: Path) -> None:
    before = sorted(unfinished.path.iterdir())
    check_run_folder(unfinished.path, overwrite=True)
    check_run_folder(unfinished.path)
    assert sorted(unfinished.path.iterdir()) == before
    check_run_folder(tmp_path / "new" / "run")
    assert not (tmp_path / "new").exists()


def test_a_run_goes_on_only_with_its_own_settings(
    unfinished: RunFolder, spec: ModelSpec, config: TrainConfig, tmp_path: Path
) -> None:
    require_same_run(unfinished, spec, config, RECORD)
    require_same_run(RunFolder(tmp_path / "new"), spec, config, RECORD)
    other = dataclasses.replace(config, seed=9, rounds={"A": 2})
    with pytest.raises(CheckpointError) as caught:
        require_same_run(unfinished, spec, other, RECORD)
    places = [f"{unfinished.config}: {key}" for key in ("seed", "rounds")]
    assert [problem.place for problem in caught.value.problems] == places


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("model", {"spec": {"width": 56}}),
        ("model", {"spec": {"signature": parse("AB")}}),
        ("text", {"record": {"corpus": "novels"}}),
        ("tokenizer", {"record": {"tokenizer": {"vocab_size": 512}}}),
    ],
)
def test_a_run_goes_on_only_with_its_own_model_and_text(
    unfinished: RunFolder, spec: ModelSpec, config: TrainConfig, what: str, change: dict[str, Any]
) -> None:
    other = dataclasses.replace(spec, **change.get("spec", {}))
    with pytest.raises(CheckpointError) as caught:
        require_same_run(unfinished, other, config, {**RECORD, **change.get("record", {})})
    (problem,) = caught.value.problems
    assert (problem.code, problem.place) == (
        "foreign-checkpoint",
        str(unfinished.model_spec if what == "model" else unfinished.data_record),
    )
    assert f"another {what}" in problem.message
    assert problem.hint


@pytest.mark.parametrize("content", [b"\xff", b"{", b"7"])
@pytest.mark.parametrize("name", ["train.toml", "data.json"])
def test_a_run_whose_inputs_are_damaged_does_not_go_on(
    unfinished: RunFolder, spec: ModelSpec, config: TrainConfig, name: str, content: bytes
) -> None:
    (unfinished.path / name).write_bytes(content)
    with pytest.raises(RinscError) as caught:
        require_same_run(unfinished, spec, config, RECORD)
    assert name in str(caught.value.problems[0].place)
    assert caught.value.hint


def test_a_place_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        open_run_folder(tmp_path / "file")
    with pytest.raises(OutputError):
        open_run_folder(tmp_path / "file" / "below")
    with pytest.raises(OutputError):
        check_run_folder(tmp_path / "file" / "below")
