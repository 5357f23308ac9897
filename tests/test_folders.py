"""Folders and pairs of files, killed at every step of their writing: the old ones or the new ones.

A real process is killed (SIGKILL) at its n-th call that changes names or flushes, for every n.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rinsc.storage.folders
from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.onnx.write.file import write_model_folder
from rinsc.errors import OutputError
from rinsc.storage.files import atomic_path, hold, write_atomically
from rinsc.storage.folders import exchange, folder_aside, replace_contents, temporary_folder
from tests.onnx.models import lively_model, random_ids, small_spec

TEXTS = {n: {"tokenizer.json": b"%d" % n, "heldout.txt": b"%d" % n} for n in (1, 2)}
IDS = random_ids(small_spec(), 1, 5)
KILLED = -9

MODELS = {seed: to_onnx(lively_model(small_spec(), seed)) for seed in (1, 2)}


def _killed_at(steps: int, write: Callable[[], object]) -> int:
    """Write in a fork of this process, which is killed at one of its steps; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            _count_steps(steps)
            write()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)


def _count_steps(left: int) -> None:
    """Kill this process at a step: a call that flushes, or that makes or takes away a name."""

    def counted(module: Any, name: str) -> None:
        real = getattr(module, name)

        def act(*given: Any, **named: Any) -> Any:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1
            return real(*given, **named)

        setattr(module, name, act)

    for name in ("fsync", "rename", "replace", "unlink", "rmdir", "link", "mkdir"):
        counted(os, name)
    counted(rinsc.storage.folders, "exchange")


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, np.ndarray]:
    return {seed: Session(model).logits(IDS) for seed, model in MODELS.items()}


def _which(folder: Path, expected: dict[int, np.ndarray]) -> int:
    """Whose logits the model in the folder gives."""
    logits = Session(folder).logits(IDS)
    (found,) = (seed for seed, each in expected.items() if np.array_equal(each, logits))
    return found


def test_a_pair_of_files_killed_at_every_step(
    tmp_path: Path, expected: dict[int, np.ndarray]
) -> None:
    seen = set()
    for steps in range(100):
        folder = tmp_path / f"{steps}"
        folder.mkdir()
        path = folder / "model.onnx"
        MODELS[1].save(path, external_data_over=0)
        status = _killed_at(steps, lambda: MODELS[2].save(path, external_data_over=0))  # noqa: B023
        assert status in (0, KILLED)
        seen.add(_which(folder, expected))
        # What is left is removed by the next export, whichever of the two files it replaces.
        MODELS[2].save(path, external_data_over=0)
        assert _which(folder, expected) == 2
        assert len(_names(folder)) == 2
        if status == 0:
            break
    assert status == 0
    assert seen == {1, 2}


@pytest.mark.parametrize("is_here", [False, True])
def test_a_model_folder_killed_at_every_step(
    tmp_path: Path, expected: dict[int, np.ndarray], is_here: bool
) -> None:
    """Where the folder cannot be exchanged, as the one where you are, the model is one step."""
    seen = set()
    for steps in range(is_here, 100, 2):
        folder = tmp_path / f"{steps}" / "model"
        write_model_folder(MODELS[1], folder, TEXTS[1])
        (folder / "mine").mkdir()
        (folder / "mine" / "notes.md").write_text("mine")

        def write(folder: Path = folder) -> None:
            if is_here:
                os.chdir(folder)
            write_model_folder(MODELS[2], folder, TEXTS[2])

        status = _killed_at(steps, write)
        assert status in (0, KILLED)
        found = _which(folder, expected)
        texts = {(folder / name).read_text() for name in ("tokenizer.json", "heldout.txt")}
        if not is_here:
            assert texts == {str(found)}
        assert (folder / "mine" / "notes.md").read_text() == "mine"
        seen.add(found)
        write_model_folder(MODELS[2], folder, TEXTS[2])
        assert _which(folder, expected) == 2
        assert len(_names(folder)) == 5
        assert _names(folder.parent) == {"model"}
        if status == 0:
            break
        shutil.rmtree(folder.parent)
    assert status == 0
    assert seen == {1, 2}


def test_a_folder_without_an_exchange_is_restored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two renames, where a system has no exchange."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "old").touch()
    monkeypatch.setattr("rinsc.storage.folders.exchange", lambda one, other: False)
    with folder_aside(place) as part:
        (part / "new").touch()
    assert _names(place) == {"new"}
    assert _names(tmp_path) == {"place"}
    place.rename(tmp_path / ".place.old")  # and then it was killed
    with pytest.raises(OutputError), folder_aside(place):
        raise OSError(28, "No space left on device")
    assert _names(place) == {"new"}


def test_the_system_exchanges_folders(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / name).touch()
    assert exchange(tmp_path / "a", tmp_path / "b") == sys.platform.startswith("linux")
    assert _names(tmp_path / "a") == ({"b"} if sys.platform.startswith("linux") else {"a"})


def test_files_of_other_names_modes_and_links_stay(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "model").write_text("old")
    (place / "model").chmod(0o600)
    (place / "mine").write_text("mine")
    (place / "link").symlink_to("mine")
    (place / "stale").touch()
    place.chmod(0o750)

    def write(folder: Path) -> None:
        (folder / "model").write_text("new")

    replace_contents(place, write, ["model"], ["stale"])
    assert _names(place) == {"model", "mine", "link"}
    assert (place / "model").read_text() == "new"
    assert (place / "model").stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o750
    assert (place / "link").readlink() == Path("mine")
    assert _names(tmp_path) == {"place"}


@pytest.mark.parametrize("how", ["here", "link", "pipe"])
def test_folders_that_cannot_be_exchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    number = place.stat().st_ino
    if how == "here":
        monkeypatch.chdir(place)
    elif how == "link":
        (tmp_path / "elsewhere").write_text("old")
        (place / "model").symlink_to(tmp_path / "elsewhere")
    else:
        os.mkfifo(place / "pipe")
    replace_contents(place, lambda folder: write_atomically(folder / "model", "new"), ["model"], [])
    assert place.stat().st_ino == number
    assert (place / "model").read_text() == "new"
    assert (place / "model").is_symlink() == (how == "link")
    assert _names(tmp_path) <= {"place", "elsewhere"}


def test_what_a_killed_command_left_is_removed_and_what_a_running_one_writes_is_not(
    tmp_path: Path,
) -> None:
    running = tmp_path / ".model-01234567.part.onnx"
    left = tmp_path / ".model-89abcdef.part.onnx"
    other = tmp_path / ".models-89abcdef.part.onnx"
    for path in (running, left, other):
        path.touch()
    with hold(running):
        write_atomically(tmp_path / "model.onnx", "x")
        assert _names(tmp_path) == {"model.onnx", running.name, other.name}
    write_atomically(tmp_path / "model.onnx", "x")
    assert _names(tmp_path) == {"model.onnx", other.name}
    with atomic_path(tmp_path / "model.onnx") as part:
        write_atomically(tmp_path / "model.onnx", "y")
        part.write_text("z")
    assert (tmp_path / "model.onnx").read_text() == "z"


def test_temporary_folders_of_killed_commands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "rinsc-mine").mkdir()  # of somebody else: without our mark
    script = f"""
import os, signal, tempfile
tempfile.tempdir = {str(tmp_path)!r}
from rinsc.storage.folders import temporary_folder
with temporary_folder() as folder:
    (folder / "large").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script])
    assert done.returncode == KILLED
    assert len(_names(tmp_path)) == 2
    with temporary_folder() as folder:
        assert len(_names(tmp_path)) == 2
        assert _names(folder) == set()
        with temporary_folder():
            assert folder.is_dir()
    assert _names(tmp_path) == {"rinsc-mine"}
