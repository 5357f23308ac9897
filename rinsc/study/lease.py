"""Who is at a run: one worker alone, also where the folder is shared by several machines.

A worker holds a lock on a file, which the system lets go of however the worker ends. Some shared
file systems have locks that hold on one machine alone, and some have none. So a worker also leaves
a lease beside the lock: a file with its machine, its process and a token of its own, whose time it
renews. Who finds a lease of another machine leaves the run alone, until the lease was not renewed
for `STALE_SECONDS`. Clocks of machines must agree to within that time.

Two workers that take over the same stale lease see which of them wrote last. A worker that finds
its lease taken over (it was frozen for too long) ends at once, and writes nothing more.
"""

from __future__ import annotations

import errno
import json
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rinsc.storage.files import cannot_write, read_json

BEAT_SECONDS, STALE_SECONDS = 10.0, 60.0
SETTLE_SECONDS = 2.0  # until a lease that was written over has reached everybody
TRIES, PAUSE_SECONDS = 5, 0.01  # who looks whether a lock is held has it for an instant
STOPPED = 143  # as after SIGTERM: another worker goes on with the run


@contextmanager
def taken_alone(lock: Path) -> Iterator[bool]:
    """The run of this lock is ours in the body; False where another worker has it.

    Raises OutputError where nothing can be written.
    """
    try:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise cannot_write(lock, error) from error
    try:
        locked = _locked(descriptor)
        token = None if locked is False else _leased(lock, locks_work=locked is not None)
        if token is None:
            yield False
            return
        try:
            with _renewed(lock, token):
                yield True
        finally:
            if _token(lock) == token:
                with suppress(OSError):
                    _lease(lock).unlink()
    finally:
        os.close(descriptor)


def is_taken(lock: Path) -> bool:
    """Whether a worker is at the run of this lock, on this machine or on another one."""
    try:
        descriptor = os.open(lock, os.O_RDONLY)
    except OSError:
        return False
    try:
        locked = _locked(descriptor, tries=1)
    finally:
        os.close(descriptor)
    return locked is False or _is_fresh(lock, locks_work=locked is not None)


def _lease(lock: Path) -> Path:
    return lock.with_suffix(".lease")


def _locked(descriptor: int, tries: int = TRIES) -> bool | None:
    """Whether the lock could be had; None where the file system has no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    for number in range(tries):
        if number:
            time.sleep(PAUSE_SECONDS)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EINTR):
                return None
    return False


def _is_fresh(lock: Path, *, locks_work: bool) -> bool:
    """Whether a worker holds the lease. Of a worker of this machine the lock says more."""
    machine, age = _left(lock)
    return age < STALE_SECONDS and not (locks_work and machine == socket.gethostname())


def _left(lock: Path) -> tuple[str, float]:
    """The machine of a lease, and the seconds since it was renewed, which may be without end."""
    try:
        age = abs(time.time() - _lease(lock).stat().st_mtime)
        return str(read_json(_lease(lock))["machine"]), age
    except (OSError, ValueError, LookupError, TypeError):
        return "", math.inf  # there is none, or what a full disk left of one


def _token(lock: Path) -> str | None:
    return _token_in(_lease(lock))


def _token_in(lease: Path) -> str | None:
    try:
        return str(read_json(lease)["token"])
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _leased(lock: Path, *, locks_work: bool) -> str | None:
    """The token of a lease that is now ours; None where another worker has one."""
    stale = _token(lock)  # is read first: what is found fresh below may be another one
    if _is_fresh(lock, locks_work=locks_work):
        return None
    path, token = _lease(lock), secrets.token_hex(8)
    is_contested = path.exists()  # other workers may take it over, too
    draft, aside = path.with_suffix(f".{token}.new"), path.with_suffix(f".{token}")
    facts = {"machine": socket.gethostname(), "process": os.getpid(), "token": token}
    try:
        if is_contested and not _moved_away(path, stale, aside):
            return None
        draft.write_text(json.dumps(facts), encoding="ascii")
        _placed(draft, path)
    except (FileExistsError, FileNotFoundError):
        return None  # another worker was faster
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with suppress(OSError):
            draft.unlink()
    if is_contested or not locks_work:  # a new lease, too, may be one that was put back
        time.sleep(SETTLE_SECONDS)
    return token if _token(lock) == token else None


def _moved_away(path: Path, stale: str | None, aside: Path) -> bool:
    """Whether the lease was the stale one, which is gone now: of many that try, one moves it.

    A late worker moves another worker's new lease instead, and puts it back.
    """
    path.rename(aside)
    try:
        is_stale = _token_in(aside) == stale
        if not is_stale:
            _placed(aside, path)
        return is_stale
    finally:
        aside.unlink(missing_ok=True)


def _placed(draft: Path, path: Path) -> None:
    """Put the whole file at ``path`` at once; raises FileExistsError where one is there."""
    try:
        os.link(draft, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        with path.open("xb") as file:
            file.write(draft.read_bytes())


@contextmanager
def _renewed(lock: Path, token: str) -> Iterator[None]:
    """The lease is renewed as long as the body goes on."""
    is_over = threading.Event()

    def beat() -> None:
        while not is_over.wait(BEAT_SECONDS):
            if _token(lock) not in (token, None):
                os._exit(STOPPED)  # another worker is at the run: nothing more may be written
            with suppress(OSError):
                os.utime(_lease(lock))

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
