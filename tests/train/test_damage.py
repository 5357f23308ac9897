"""A finished run with one damaged byte: one clear error, or the very results of the whole run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rinsc.errors import CheckpointError, RinscError
from rinsc.training.opening import finished_run
from rinsc.training.run_folder import RunFolder, check_files, read_pieces
from tests.cli.command_line import run_cli
from tests.cli.conftest import corpus, run

__all__ = ["corpus", "run"]  # fixtures

READ = ("model.toml", "train.toml", "tokenizer.json", "result.json")
FILES = (*READ, "data.json", "model.safetensors", "checksums.json")


def results(folder: Path) -> tuple[Any, ...]:
    """All that a finished run says, its logits among the rest."""
    found = finished_run(folder)
    ids = torch.arange(24).reshape(2, 12)
    with torch.no_grad():
        logits = found.model(torch.device("cpu")).eval()(ids)
    facts = (found.graph.spec, found.config, found.steps, found.training_flops)
    return (*facts, found.tokenizer().to_json(), logits.numpy().tobytes())


@pytest.fixture(scope="module")
def copied(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged") / "run"
    folder.mkdir()
    for name in FILES:
        shutil.copy(run / name, folder / name)
    return folder


def damaged(content: bytes, data: st.DataObject) -> bytes:
    """One bit flipped, one byte set, one byte lost or added, or an end cut off."""
    index = data.draw(st.integers(0, len(content) - 1))
    head, byte, tail = content[:index], content[index], content[index + 1 :]
    other = data.draw(st.integers(0, 255))
    flipped = byte ^ 1 << data.draw(st.integers(0, 7))
    return data.draw(
        st.sampled_from(
            [
                *(head + bytes([each]) + tail for each in (flipped, other)),
                *(head, head + tail, head + bytes([other, byte]) + tail),
            ]
        )
    )


@settings(max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FILES), data=st.data())
def test_one_damaged_byte(run: Path, copied: Path, name: str, data: st.DataObject) -> None:
    whole = (run / name).read_bytes()
    (copied / name).write_bytes(damaged(whole, data))
    try:
        found = results(copied)
    except RinscError:
        return
    finally:
        (copied / name).write_bytes(whole)
    assert found == results(run)


def test_damaged_pieces_are_an_error_of_their_own(run: Path, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(run, folder.path)
    content = folder.pieces.read_bytes()
    folder.pieces.write_bytes(content[:-1])
    assert finished_run(folder.path).steps  # nothing else reads them
    with pytest.raises(CheckpointError, match="not as it was written"):
        read_pieces(folder)
    folder.checksums.unlink()
    for damage in (content[:-1], b"", b"\x93NUMPY", content[:6]):
        folder.pieces.write_bytes(damage)
        with pytest.raises(CheckpointError, match="cannot be read"):
            read_pieces(folder)
    folder.pieces.unlink()
    assert read_pieces(folder) is None


@pytest.mark.parametrize("name", READ)
def test_a_list_of_some_files_does_not_pass(run: Path, copied: Path, name: str) -> None:
    listed = json.loads((run / "checksums.json").read_text())
    assert set(listed) == {*READ, "held_out.npy", "config.json: spec, rounds"}
    del listed[name]
    (copied / "checksums.json").write_text(json.dumps(listed))
    try:
        with pytest.raises(CheckpointError) as caught:
            check_files(RunFolder(copied))
    finally:
        shutil.copy(run / "checksums.json", copied / "checksums.json")
    assert caught.value.code == "damaged-run"
    assert name in str(caught.value)


def test_a_changed_figure_is_found(run: Path, copied: Path) -> None:
    """Right in its form: nothing but a digest can see it."""
    facts = json.loads((run / "result.json").read_text())
    (copied / "result.json").write_text(json.dumps(facts | {"training_flops": 12345}, indent=2))
    try:
        with pytest.raises(CheckpointError) as caught:
            finished_run(copied)
        command = run_cli("generate", str(copied), "--prompt", "the river")
    finally:
        shutil.copy(run / "result.json", copied / "result.json")
    assert "result.json" in str(caught.value)
    assert command.status == 1
    assert "error[damaged-run]" in command.err


def test_a_run_of_0_4_0_has_no_list(run: Path, copied: Path) -> None:
    (copied / "checksums.json").unlink()
    try:
        assert results(copied) == results(run)
    finally:
        shutil.copy(run / "checksums.json", copied / "checksums.json")


def test_texts_beside_the_run_are_free(run: Path, copied: Path) -> None:
    (copied / "README.md").write_text("mine")
    (copied / "generation_config.json").write_text("{}")
    assert results(copied) == results(run)
