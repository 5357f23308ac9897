"""Folders that one process at a time fills."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rinsc.files import cannot_write, make_folder


@contextmanager
def one_process(place: Path, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock of ``place``; ``waiting`` is called where another process holds it.

    The system frees the lock of a process that is killed. Raises OutputError.
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
        yield
    finally:
        lock.release()
