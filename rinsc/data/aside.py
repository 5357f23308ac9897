"""Folders that are whole or not there: filled aside, by one process at a time, and renamed."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rinsc.files import cannot_write, flush_to_disk, make_folder


@contextmanager
def one_process(place: Path, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock of ``place``; ``waiting`` is called where another process holds it.

    The system frees the lock of a process that is killed. What such a process left is removed.
    Raises OutputError.
    """
    import filelock

    make_folder(place.parent)
    lock = filelock.FileLock(place.with_name(f".{place.name}.lock"))
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
    except OSError as error:
        raise cannot_write(place, error) from error
    try:
        for part in place.parent.glob(f".{place.name}-*.part"):
            shutil.rmtree(part, ignore_errors=True)
        yield
    finally:
        lock.release()


@contextmanager
def folder_aside(place: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``place`` when the body ends without error.

    Whatever the body raises, it is removed and the old folder stays. An OSError becomes an
    OutputError.
    """
    part = place.with_name(f".{place.name}-{secrets.token_hex(4)}.part")
    try:
        part.mkdir()
        yield part
        if place.exists():
            shutil.rmtree(place)
        part.rename(place)
        with suppress(OSError):  # not every file system can
            flush_to_disk(place.parent)
    except OSError as error:
        raise cannot_write(place, error) from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
