"""Writing files so that a reader sees the old content or the new, never a half of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rinsc.errors import OutputError, Problem


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path`` in one step; raises OutputError."""
    with atomic_path(path) as part:
        part.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside ``path`` to write to; it becomes ``path`` when the body ends without error.

    The file at the yielded name exists and is empty, so a place that cannot be written is found
    before the body does its work. It keeps the suffix of ``path``. Whatever the body raises, it is
    removed and the old ``path`` survives. An OSError of the body or of the renaming becomes an
    OutputError.
    """
    target = Path(path)
    part = target.with_name(f".{target.stem[:64]}-{secrets.token_hex(4)}.part{target.suffix}")
    try:
        if target.is_dir():
            raise IsADirectoryError(None, "it is a folder")
        part.touch(exist_ok=False)
        yield part
        _flush_to_disk(part)
        part.replace(target)
        _flush_to_disk(target.parent)
    except OSError as error:
        raise cannot_write(target, error) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create the folder and its parents where they are missing; raises OutputError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The OutputError for an operating system error at ``path``."""
    reason = error.strerror or type(error).__name__
    return OutputError(
        Problem(
            code="cannot-write",
            message=f"cannot write: {reason[0].lower()}{reason[1:]}",
            place=str(path),
            hint=_hint(path),
        )
    )


def _hint(path: Path) -> str:
    try:
        if path.is_dir():
            return "name a file, not a folder"
        if not path.parent.exists():
            return f"create the folder {path.parent} first"
        if not path.parent.is_dir():
            return f"{path.parent} is not a folder; choose another place"
    except OSError:
        return "choose another place"
    return "check the permissions and the free space, or choose another place"


def _flush_to_disk(path: Path) -> None:
    """fsync a file, or a folder where the platform can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:
        # Windows opens no folder; there the rename alone has to do.
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
