"""Checkpoints: whole or not at all, and resuming from them as if the run had never stopped."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import save_file

from rinsc.backends.hf import RinscForCausalLM
from rinsc.data.batches import TokenizedCorpus
from rinsc.errors import CheckpointError, OutputError
from rinsc.spec import ModelSpec
from rinsc.syntax import parse
from rinsc.training.checkpoint import (
    MANIFEST,
    checkpoints,
    draft_of,
    is_whole,
    latest_whole,
    publish,
    remove_checkpoints,
    start_draft,
    writing_errors,
)
from rinsc.training.config import TrainConfig
from rinsc.training.result import result_from_facts
from rinsc.training.run import train_module
from rinsc.training.run_folder import RunFolder, open_run_folder
from rinsc.training.state import why_unusable
from tests.train.runs import EndAt, EndedError, differing, fresh, timeless, trained

DRAWN = "(A^5{skip=0.5, adapter=scale})B^2{sample=uniform(1, 3), inject=gate, init=noise}"


class Whole(NamedTuple):
    """An unbroken run."""

    model: RinscForCausalLM
    folder: RunFolder


@pytest.fixture(scope="module")
def whole(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Whole:
    return Whole(*trained(spec, tokens, config, tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture
def broken(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> RunFolder:
    """A run that ended in step 5: with checkpoints of 2 and 4."""
    with pytest.raises(EndedError):
        train_module(fresh(spec), spec, tokens, config, folder, observer=EndAt(5))
    assert [each.step for each in checkpoints(folder.path)] == [2, 4]
    return folder


@pytest.mark.parametrize("stop", [1, 2, 3, 7])
def test_resuming_is_exact(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    whole: Whole,
    stop: int,
) -> None:
    with pytest.raises(EndedError):
        train_module(fresh(spec), spec, tokens, config, folder, observer=EndAt(stop))
    assert not folder.result.exists()
    resumed = fresh(spec)
    seen = EndAt(99)
    result = train_module(resumed, spec, tokens, config, folder, resume=True, observer=seen)
    assert seen.first_step == (stop - 1) // 2 * 2
    assert differing(resumed, whole.model) == []
    assert timeless(folder) == timeless(whole.folder)
    expected = result_from_facts(json.loads(whole.folder.result.read_text()))
    assert dataclasses.replace(result, seconds=0) == dataclasses.replace(expected, seconds=0)


@pytest.mark.parametrize(
    "change",
    [
        {"optimizer": "muon"},
        {"accumulate": 3, "precision": "bf16"},
        {"checkpointing": "round"},
        {"packing": "documents"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_resuming_drawn_rounds_is_exact_with_every_setting(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path: Path,
    change: dict[str, object],
) -> None:
    drawn = dataclasses.replace(spec, signature=parse(DRAWN))
    settings = dataclasses.replace(config, **change)  # type: ignore[arg-type]
    unbroken, whole = trained(drawn, tokens, settings, tmp_path / "whole")
    folder = open_run_folder(tmp_path / "broken")
    with pytest.raises(EndedError):
        train_module(fresh(drawn), drawn, tokens, settings, folder, observer=EndAt(4))
    resumed = fresh(drawn)
    train_module(resumed, drawn, tokens, settings, folder, resume=True)
    assert differing(resumed, unbroken) == []
    assert timeless(folder) == timeless(whole)
    assert len({str(metrics.rounds) for metrics in timeless(folder)}) > 1


def test_resuming_without_the_optimizer_would_be_seen(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    broken: RunFolder,
    whole: Whole,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", lambda *_: None)
    resumed = fresh(spec)
    train_module(resumed, spec, tokens, config, broken, resume=True)
    assert len(differing(resumed, whole.model)) > 10


def test_resuming_at_other_draws_would_be_seen(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rinsc.graph.law import draw_rounds

    drawn = dataclasses.replace(spec, signature=parse(DRAWN))
    unbroken, _ = trained(drawn, tokens, config, tmp_path / "whole")
    folder = open_run_folder(tmp_path / "broken")
    with pytest.raises(EndedError):
        train_module(fresh(drawn), drawn, tokens, config, folder, observer=EndAt(3))
    monkeypatch.setattr(
        "rinsc.training.schedules.draw_rounds",
        lambda graph, seed, step: draw_rounds(graph, seed + 1, step),
    )
    resumed = fresh(drawn)
    train_module(resumed, drawn, tokens, config, folder, resume=True)
    assert len(differing(resumed, unbroken)) > 10


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


NAMES = ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json", MANIFEST]


@pytest.mark.parametrize("damage", [_flip, _cut, Path.unlink])
@pytest.mark.parametrize("name", NAMES)
def test_damage_of_every_file_is_seen(
    whole: Whole, tmp_path: Path, name: str, damage: Callable[[Path], None]
) -> None:
    shutil.copytree(whole.folder.path, tmp_path, dirs_exist_ok=True)
    first, last = checkpoints(tmp_path)
    assert (first.step, last.step) == (6, 7)
    assert latest_whole(tmp_path) == (last, [])
    damage(last.path / name)
    assert not is_whole(last)
    assert latest_whole(tmp_path) == (first, [last])
    damage(first.path / name)
    assert latest_whole(tmp_path) == (None, [last, first])


def test_a_damaged_checkpoint_is_left_for_the_one_before(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, broken: RunFolder, whole: Whole
) -> None:
    _flip(broken.path / "checkpoint-4" / "model.safetensors")
    resumed, seen = fresh(spec), EndAt(99)
    train_module(resumed, spec, tokens, config, broken, resume=True, observer=seen)
    assert seen.first_step == 2
    assert differing(resumed, whole.model) == []
    assert timeless(broken) == timeless(whole.folder)
    assert [(each.step, is_whole(each)) for each in checkpoints(broken.path)] == [
        (6, True),
        (7, True),
    ]


def test_where_no_checkpoint_is_whole_nothing_is_lost(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, broken: RunFolder
) -> None:
    for each in checkpoints(broken.path):
        _cut(each.path / "optimizer.pt")
    before = {path: path.read_bytes() for path in broken.path.rglob("*") if path.is_file()}
    with pytest.raises(CheckpointError) as caught:
        train_module(fresh(spec), spec, tokens, config, broken, resume=True)
    assert caught.value.code == "damaged-checkpoint"
    assert "checkpoint-4, checkpoint-2" in caught.value.message
    assert "overwrite=True" in str(caught.value.hint)
    after = {path: path.read_bytes() for path in broken.path.rglob("*") if path.is_file()}
    assert after == before


def test_what_was_left_half_written_goes_and_is_never_read(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, broken: RunFolder, whole: Whole
) -> None:
    left = [draft_of(broken.path, 6), broken.path / ".checkpoint-2.old.part"]
    for folder in left:
        shutil.copytree(broken.path / "checkpoint-4", folder)
    assert [each.step for each in checkpoints(broken.path)] == [2, 4]
    resumed = fresh(spec)
    train_module(resumed, spec, tokens, config, broken, resume=True)
    assert not any(folder.exists() for folder in left)
    assert differing(resumed, whole.model) == []


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_ones_are_kept(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder, keep: int
) -> None:
    few = dataclasses.replace(config, keep=keep, checkpoint_every=1)
    train_module(fresh(spec), spec, tokens, few, folder)
    assert [each.step for each in checkpoints(folder.path)] == [5, 6, 7][-keep:]
    assert all(is_whole(each) for each in checkpoints(folder.path))


def _write(folder: Path, step: int, content: bytes) -> None:
    (start_draft(folder, step) / "model.bin").write_bytes(content)


def test_a_checkpoint_appears_whole_and_replaces_a_damaged_one(tmp_path: Path) -> None:
    _write(tmp_path, 3, b"first")
    assert checkpoints(tmp_path) == []
    made = publish(tmp_path, 3, keep=2)
    assert checkpoints(tmp_path) == [made]
    assert is_whole(made)
    _flip(made.path / "model.bin")
    _write(tmp_path, 3, b"again")
    assert publish(tmp_path, 3, keep=2) == made
    assert is_whole(made)
    assert (made.path / "model.bin").read_bytes() == b"again"
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


OF_A_CHECKPOINT = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")


@pytest.mark.parametrize("left_out", OF_A_CHECKPOINT)
def test_a_list_of_some_files_is_not_enough(tmp_path: Path, left_out: str) -> None:
    part = start_draft(tmp_path, 3)
    for name in OF_A_CHECKPOINT:
        (part / name).write_bytes(b"content")
    made = publish(tmp_path, 3, keep=1)
    (made.path / "notes.md").write_text("mine")  # decides nothing
    assert is_whole(made)
    listed = json.loads((made.path / MANIFEST).read_text())
    (made.path / MANIFEST).write_text(json.dumps(listed | {"../../other": "0" * 64}))
    assert not is_whole(made)
    del listed[left_out]
    (made.path / MANIFEST).write_text(json.dumps(listed))
    _flip(made.path / left_out)
    assert not is_whole(made)
    (made.path / left_out).unlink()
    assert is_whole(made) == (left_out == "trainer_state.json")


def test_a_later_one_that_was_passed_over_takes_no_place(tmp_path: Path) -> None:
    for step in (7, 14):
        _write(tmp_path, step, b"x")
        publish(tmp_path, step, keep=2)
    _flip(tmp_path / "checkpoint-14" / "model.bin")
    _write(tmp_path, 10, b"x")
    publish(tmp_path, 10, keep=1)
    assert [each.step for each in checkpoints(tmp_path)] == [10]


def test_steps_are_ordered_as_numbers_and_other_names_are_none(tmp_path: Path) -> None:
    for step in (9, 10, 100):
        _write(tmp_path, step, b"x")
        publish(tmp_path, step, keep=9)
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-200").touch()
    assert [each.step for each in checkpoints(tmp_path)] == [9, 10, 100]
    _write(tmp_path, 101, b"x")
    remove_checkpoints(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-200", "checkpoint-x"]
    assert checkpoints(tmp_path / "nowhere") == []


@pytest.mark.parametrize("content", ["", "{}", "[]", "7", "{", '{"gone.bin": "0"}'])
def test_a_list_that_says_nothing_makes_no_checkpoint(tmp_path: Path, content: str) -> None:
    _write(tmp_path, 3, b"first")
    made = publish(tmp_path, 3, keep=2)
    (made.path / MANIFEST).write_text(content)
    assert not is_whole(made)


def test_a_checkpoint_is_a_model_of_transformers(whole: Whole) -> None:
    last = checkpoints(whole.folder.path)[-1]
    loaded = RinscForCausalLM.from_pretrained(last.path)
    assert differing(loaded, whole.model) == []
    moments = torch.load(last.path / "optimizer.pt", weights_only=True)["state"]
    assert len(moments) == len(list(whole.model.parameters()))
    assert {int(each["step"]) for each in moments.values()} == {7}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_told_as_one(tmp_path: Path, number: int) -> None:
    with pytest.raises(OutputError) as caught, writing_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert "free some space" in str(caught.value.hint)


def test_other_errors_of_writing_are_not_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="permission denied"), writing_errors(tmp_path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with pytest.raises(RuntimeError, match="shapes"), writing_errors(tmp_path):
        raise RuntimeError("shapes do not fit")


def _sealed(path: Path) -> None:
    """A manifest that fits what lies in a checkpoint by now."""
    listed = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.iterdir())
        if file.name != "checksums.json"
    }
    (path / "checksums.json").write_text(json.dumps(listed))


def _other_shapes(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    for values in state["state"].values():
        values["exp_avg"] = torch.zeros(3, 5)
    torch.save(state, path)


def _fewer_groups(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    torch.save({**state, "param_groups": state["param_groups"][:1]}, path)


def _other_betas(path: Path) -> None:
    state = torch.load(path, weights_only=True)
    state["param_groups"][0]["betas"] = (0.5, 0.5)
    torch.save(state, path)


DAMAGE: dict[str, tuple[str, Callable[[Path], object]]] = {
    "no file of torch": ("optimizer.pt", lambda path: path.write_bytes(b"garbage")),
    "an empty file": ("optimizer.pt", lambda path: path.write_bytes(b"")),
    "another object": ("optimizer.pt", lambda path: torch.save([1, 2], path)),
    "no moments": ("optimizer.pt", lambda p: torch.save({"state": {}, "param_groups": []}, p)),
    "moments of other shapes": ("optimizer.pt", _other_shapes),
    "other groups": ("optimizer.pt", _fewer_groups),
    "other settings": ("optimizer.pt", _other_betas),
    "rng garbage": ("rng_state.pth", lambda path: path.write_bytes(b"\x80\x04garbage")),
    "rng of nothing": ("rng_state.pth", lambda path: torch.save({}, path)),
    "rng of another kind": ("rng_state.pth", lambda p: torch.save({"python": 1, "cpu": 2}, p)),
    "another schedule": ("scheduler.pt", lambda path: torch.save({"last_epoch": 1}, path)),
    "other weights": (
        "model.safetensors",
        lambda path: save_file({"model.embedding.weight": torch.zeros(2, 2)}, path),
    ),
    "another step": ("trainer_state.json", lambda path: path.write_text('{"global_step": 2}')),
    "no state": ("trainer_state.json", lambda path: path.write_text("[[[")),
}


@pytest.fixture(scope="module")
def ended(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """As `broken`, to be copied."""
    folder = open_run_folder(tmp_path_factory.mktemp("ended") / "run")
    with pytest.raises(EndedError):
        train_module(fresh(spec), spec, tokens, config, folder, observer=EndAt(5))
    return folder.path


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.filterwarnings("ignore::rinsc.training.run.CheckpointWarning")
def test_foreign_files_are_passed_over_though_their_manifest_fits(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    ended: Path,
    tmp_path: Path,
    damage: str,
) -> None:
    """The run goes on from the checkpoint before; without one it is an error."""
    name, spoil = DAMAGE[damage]
    folder = RunFolder(Path(shutil.copytree(ended, tmp_path / "run")))
    earlier, last = checkpoints(folder.path)
    spoil(last.path / name)
    _sealed(last.path)
    assert is_whole(last)
    seen = EndAt(earlier.step + 1)
    with pytest.raises(EndedError):
        train_module(fresh(spec), spec, tokens, config, folder, resume=True, observer=seen)
    assert seen.first_step == earlier.step
    shutil.rmtree(earlier.path)
    with pytest.raises(CheckpointError) as caught:
        train_module(fresh(spec), spec, tokens, config, folder, resume=True)
    assert caught.value.code == "damaged-checkpoint"
    assert f"{last.path.name} (" in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize("change", [{"optimizer": "muon"}, {"learning_rate_visits_power": 0.5}])
def test_its_own_files_are_not_taken_for_foreign_ones(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path: Path,
    change: dict[str, Any],
) -> None:
    config = dataclasses.replace(config, **change)
    folder = open_run_folder(tmp_path / "run")
    model = fresh(spec)
    train_module(model, spec, tokens, config, folder)
    for each in checkpoints(folder.path):
        assert why_unusable(each, fresh(spec), fresh(spec).model.graph, config) is None
