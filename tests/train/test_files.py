"""Atomic writing: the old file or the new one, never less."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rinsc.errors import OutputError
from rinsc.storage.files import (
    atomic_path,
    check_folder,
    check_writable,
    make_folder,
    write_atomically,
)


def test_text_and_bytes_are_written(tmp_path: Path) -> None:
    target = tmp_path / "café.txt"
    write_atomically(target, "naïve\n")
    assert target.read_bytes() == "naïve\n".encode()
    write_atomically(target, b"\x00\xff")
    assert target.read_bytes() == b"\x00\xff"
    assert list(tmp_path.iterdir()) == [target]


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    write_atomically(tmp_path / "new", "x")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def _write_half(target: Path, error: BaseException) -> None:
    with atomic_path(target) as part:
        part.write_text("half of the n")
        raise error


@pytest.mark.parametrize("error", [ValueError("stop"), KeyboardInterrupt()])
def test_the_old_file_survives_a_failure(tmp_path: Path, error: BaseException) -> None:
    target = tmp_path / "kept.json"
    target.write_text("old")
    with pytest.raises(type(error)):
        _write_half(target, error)
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_full_disk_is_an_output_error(tmp_path: Path) -> None:
    target = tmp_path / "kept.json"
    target.write_text("old")
    with pytest.raises(OutputError, match="no space left"):
        _write_half(target, OSError(28, "No space left on device"))
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_missing_folder_is_named_before_the_work_starts(tmp_path: Path) -> None:
    target = tmp_path / "no" / "such" / "file.onnx"
    started = False
    with pytest.raises(OutputError) as caught, atomic_path(target):
        started = True
    assert not started
    assert str(target) in str(caught.value)
    assert str(target.parent) in (caught.value.hint or "")


def test_a_folder_is_no_target(tmp_path: Path) -> None:
    with pytest.raises(OutputError) as caught:
        write_atomically(tmp_path, "x")
    assert caught.value.hint == "name a file, not a folder"


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_atomically(tmp_path / "file" / "below", "x")
    with pytest.raises(OutputError):
        make_folder(tmp_path / "file" / "below")


def test_a_name_too_long_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        write_atomically(tmp_path / ("n" * 1000), "x")
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "there" / "target.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    link.symlink_to(target)
    for text in ("first", "second"):  # it dangles at first
        write_atomically(link, text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o640, 0o755])
def test_the_permissions_of_an_old_file_are_kept(tmp_path: Path, mode: int) -> None:
    target = tmp_path / "file"
    target.touch()
    target.chmod(mode)
    write_atomically(target, "new")
    assert stat.S_IMODE(target.stat().st_mode) == mode
    with atomic_path(target) as part:  # nor is the half-written file open to others
        assert stat.S_IMODE(part.stat().st_mode) & ~mode == 0


@pytest.mark.parametrize("write", [check_writable, lambda path: write_atomically(path, "x")])
def test_pipes_and_devices_are_not_replaced(
    tmp_path: Path, write: Callable[[Path], object]
) -> None:
    pipe, link = tmp_path / "pipe", tmp_path / "link"
    os.mkfifo(pipe)
    link.symlink_to("/dev/null")
    for place in (pipe, link, Path("/dev/null")):
        with pytest.raises(OutputError, match="not a regular file"):
            write(place)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink()


def test_asking_whether_a_place_can_be_written_leaves_it_as_it_is(tmp_path: Path) -> None:
    target = tmp_path / "file"
    check_writable(target)
    assert list(tmp_path.iterdir()) == []
    target.write_text("old")
    check_writable(target)
    assert target.read_text() == "old"
    for place in (tmp_path, tmp_path / "no" / "file"):
        with pytest.raises(OutputError):
            check_writable(place)


def test_asking_whether_a_folder_can_be_made_leaves_none(tmp_path: Path) -> None:
    check_folder(tmp_path)
    check_folder(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OutputError):
            check_folder(place)
