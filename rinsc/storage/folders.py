"""Folders that appear whole or not at all, and that one process at a time fills.

A folder is filled aside and takes its place in one step: where something stands there, the two are
exchanged, which Linux does at once. Whoever is filling a folder or a file holds a lock on it, so
the next command can tell what nobody fills any more, and removes it.
"""

from __future__ import annotations

import ctypes
import errno
import glob
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path

from rinsc.errors import OutputError
from rinsc.storage.files import cannot_write, flush_to_disk, hold, is_held, made_folder, make_folder

AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
LINKABLE = (stat.S_IFREG, stat.S_IFLNK, stat.S_IFDIR)
MOST_LINKS = 10_000
_LEFT = re.compile(r"\..+-[0-9a-f]{8}\.part(\..*)?")  # by killed commands
TEMPORARY, MARKER = "rinsc-", ".rinsc-temporary"


@contextmanager
def folder_aside(target_path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``place`` when the body ends without error.

    Whatever the body raises, it is removed and the old folder stays. An OSError becomes an
    OutputError.
    """
    aside = target_path.with_name(f".{target_path.name}-{secrets.token_hex(4)}.part")
    try:
        restore_folder(target_path)
        remove_left_folders(target_path)
        aside.mkdir()
        with hold(aside):
            yield aside
            publish_folder(aside, target_path)
    except OSError as error:
        raise cannot_write(target_path, error) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def replace_contents(
    target_path: Path,
    write: Callable[[Path], None],
    names: Collection[str],
    dropped: Collection[str],
) -> None:
    """Let ``write`` fill a folder with files of these ``names``, as one step.

    Files of other names stay, but for those ``dropped``. The folder is exchanged whole; where that
    cannot be (a mount, the folder where you are, links), ``write`` writes each file into the old
    one, and must end with the file that makes the others count. Raises OutputError, with the old
    folder as it was.
    """
    target = Path(os.path.realpath(target_path))
    if not target.is_dir() or _can_be_exchanged(target, names):
        with suppress(_NoLinksError), made_folder(target.parent), folder_aside(target) as aside:
            with _errors_name(aside, target_path):
                write(aside)
            if target.is_dir():
                _carry_over(target, aside, {*names, *dropped})
            return
    write(target)
    for name in dropped:
        with suppress(FileNotFoundError):
            (target / name).unlink()


@contextmanager
def _errors_name(aside: Path, target_path: Path) -> Iterator[None]:
    """What goes wrong in a folder aside is told of the folder that the user named."""
    try:
        yield
    except OutputError as error:
        problems = (
            replace(problem, place=(problem.place or "").replace(str(aside), str(target_path)))
            for problem in error.problems
        )
        raise OutputError.of(*problems) from error


def publish_folder(aside: Path, target_path: Path) -> None:
    """Give a folder the name ``place``, once all of it is on disk; what stood there is removed."""
    flush_folder(aside)
    old = target_path.with_name(f".{target_path.name}.old")
    if not os.path.lexists(target_path):
        os.rename(aside, target_path)
    elif not exchange(aside, target_path):
        shutil.rmtree(old, ignore_errors=True)
        os.rename(target_path, old)
        try:
            os.rename(aside, target_path)
        except OSError:
            os.rename(old, target_path)
            raise
    with suppress(OSError):  # not every file system can
        flush_to_disk(target_path.parent)
    shutil.rmtree(old, ignore_errors=True)
    shutil.rmtree(aside, ignore_errors=True)  # what stood there, after an exchange


def flush_folder(folder: Path) -> None:
    """fsync every file and folder below, and the folder itself."""
    for path in (*folder.rglob("*"), folder):
        if not path.is_symlink() and (path.is_dir() or path.is_file()):
            flush_to_disk(path)


def restore_folder(target_path: Path) -> None:
    """Undo the half of an exchange that a killed command left where the system has no whole one."""
    old = target_path.with_name(f".{target_path.name}.old")
    if old.is_dir() and not os.path.lexists(target_path):
        os.rename(old, target_path)


def remove_left_folders(target_path: Path) -> None:
    """Remove what killed commands were filling to take the place of ``place``."""
    for aside in target_path.parent.glob(f".{glob.escape(target_path.name)}-*.part"):
        if not is_held(aside):
            shutil.rmtree(aside, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two folders at once; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP):
        return False
    raise OSError(code, os.strerror(code), str(other))


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder in the system's place for such, removed at the end; those of killed commands too."""
    target_path = Path(tempfile.gettempdir())
    for marker in target_path.glob(f"{TEMPORARY}*/{MARKER}"):
        with suppress(OSError):
            mine = marker.stat().st_uid == marker.parent.stat().st_uid == os.getuid()
            if mine and not is_held(marker.parent):
                shutil.rmtree(marker.parent, ignore_errors=True)
    temporary = tempfile.TemporaryDirectory(prefix=TEMPORARY, ignore_cleanup_errors=True)
    with temporary as name, hold(Path(name)):
        (Path(name) / MARKER).touch()
        (Path(name) / "files").mkdir()
        yield Path(name) / "files"


def _can_be_exchanged(target: Path, names: Collection[str]) -> bool:
    """Whether nothing points at the folder itself, and all in it can be linked to."""
    try:
        here = Path.cwd()
    except OSError:
        here = Path(os.sep)
    if os.path.ismount(target) or here == target or target in here.parents:
        return False
    try:
        paths = list(islice(target.rglob("*"), MOST_LINKS + 1))
        kinds = {path: path.lstat() for path in paths}
        device = target.stat().st_dev
    except OSError:
        return False
    linkable = all(
        status.st_dev == device and stat.S_IFMT(status.st_mode) in LINKABLE
        for status in kinds.values()
    )
    plain = all(
        stat.S_ISREG(kinds[target / name].st_mode) for name in names if target / name in kinds
    )
    return linkable and plain and len(paths) <= MOST_LINKS and os.access(target.parent, os.W_OK)


def _carry_over(old: Path, new: Path, without: Collection[str]) -> None:
    """Link the files of an old folder into the new one, and give those that are new in it the
    permissions that they had."""
    try:
        for path in old.iterdir():
            if _LEFT.fullmatch(path.name) and not is_held(path):
                continue
            if path.name in without:
                if (new / path.name).exists():
                    (new / path.name).chmod(stat.S_IMODE(path.stat().st_mode))
            elif path.is_dir() and not path.is_symlink():
                shutil.copytree(path, new / path.name, symlinks=True, copy_function=_link)
            else:
                _link(path, new / path.name)
        shutil.copystat(old, new)
    except (OSError, shutil.Error):
        raise _NoLinksError from None


def _link(old: str | Path, new: str | Path) -> None:
    os.link(old, new, follow_symlinks=False)


class _NoLinksError(Exception):
    """The file system has no links, or not for these files."""


@contextmanager
def one_process(target_path: Path, waiting: Callable[[], object] | None = None) -> Iterator[None]:
    """Hold the lock of ``place``; ``waiting`` is called where another process holds it.

    The system frees the lock of a process that is killed. Raises OutputError.
    """
    import filelock

    make_folder(target_path.parent)
    lock = filelock.FileLock(target_path.with_name(f".{target_path.name}.lock"))
    try:
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            if waiting is not None:
                waiting()
            lock.acquire()
    except OSError as error:
        raise cannot_write(target_path, error) from error
    try:
        yield
    finally:
        lock.release()
