"""Files: written so that a reader sees the old content or the new, and JSON and TOML read with
limits on size and depth; short digests that name them."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rinsc.errors import OutputError

MAX_DEPTH = 64  # of values in values; no file of ours or of the libraries comes near
MAX_TOML = 1 << 17  # characters of a TOML text
MAX_KEY_PARTS = 16  # of a dotted key in TOML
MAX_RECORD_BYTES = 1 << 24  # of a JSON file that says something of others

# Strings and comments as wholes, so that nothing inside them counts; a mark of structure; a dot.
_TOML_TOKEN = re.compile(
    r'''"""(?:[^"\\]|\\.|"(?!""))*"""|"(?:[^"\\\n]|\\.)*"|#[^\n]*|[][{},=\n.]'''
    r"""|'''.*?'''|'[^'\n]*'""",
    re.DOTALL,
)


def parse_json(text: str | bytes, most_depth: int = MAX_DEPTH) -> Any:
    """The value of a JSON text; bytes are UTF-8.

    Raises ValueError for what is no JSON, and for values nested deeper than ``most_depth``.
    """
    text = text.decode("utf-8") if isinstance(text, bytes) else text
    try:
        return _shallow(json.loads(text), most_depth)
    except RecursionError:
        raise _too_deep(most_depth) from None


def read_json(path: Path, most_bytes: int = MAX_RECORD_BYTES) -> Any:
    """The value of a JSON file.

    Raises OSError where the file cannot be read or is not a regular one, and ValueError for what
    is no JSON, is larger than ``most_bytes``, or nests deeper than `MAX_DEPTH`.
    """
    data = read_regular(path, most_bytes + 1)
    if len(data) > most_bytes:
        raise ValueError(f"it has more than {most_bytes} bytes")
    return parse_json(data)


def read_regular(path: Path, most_bytes: int = -1) -> bytes:
    """The bytes of a file, or the first of them; raises OSError for what is no regular file.

    To open a pipe would wait for somebody who writes to it.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(None, "it is not a regular file")
    with path.open("rb") as file:
        return file.read(most_bytes)


def read_regular_text(path: Path, errors: str = "strict") -> str:
    """The UTF-8 text of a file, line ends as ``\\n``; raises as `read_regular` does."""
    text = read_regular(path).decode("utf-8", errors)
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_toml(text: str) -> dict[str, Any]:
    """The keys of a TOML text; raises ValueError as `parse_json` does.

    The text is looked through first: `tomllib` takes time and memory that grow with the square of
    the parts of a dotted key, so that 65 kB could take gigabytes.
    """
    import tomllib  # slow to load, as all that is imported inside functions here

    _check_toml(text)
    try:
        keys: dict[str, Any] = _shallow(tomllib.loads(text), MAX_DEPTH)
    except RecursionError:
        raise _too_deep(MAX_DEPTH) from None
    return keys


def _check_toml(text: str) -> None:
    """Raises ValueError for a text that is too long to parse, or nests too deep, also by keys."""
    if len(text) > MAX_TOML:
        raise ValueError(f"it has more than {MAX_TOML} characters")
    depth = dots = 0
    for token in _TOML_TOKEN.finditer(text):
        char = token[0][0]
        if char == ".":
            dots += 1
            if dots >= MAX_KEY_PARTS:
                raise ValueError(f"a key has more than {MAX_KEY_PARTS} parts")
        elif char in ",=\n[]{}":
            dots = 0
            depth += (char in "[{") - (char in "]}")
            if depth > MAX_DEPTH:
                raise _too_deep(MAX_DEPTH)


def _shallow(value: Any, most_depth: int) -> Any:
    """The value itself; raises ValueError where it nests too deep to be handled."""
    level = [[value]]
    for _ in range(most_depth + 1):
        inner = [item for items in level for item in items if isinstance(item, dict | list)]
        if not inner:
            return value
        level = [list(item.values()) if isinstance(item, dict) else item for item in inner]
    raise _too_deep(most_depth)


def _too_deep(most_depth: int) -> ValueError:
    return ValueError(f"values nest deeper than {most_depth}")


def write_atomically(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write ``data`` (text as UTF-8) to ``path`` in one step; raises OutputError."""
    with atomic_path(path) as unfinished:
        unfinished.write_bytes(data.encode("utf-8") if isinstance(data, str) else data)


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A name beside ``path`` to write to; it becomes ``path`` when the body ends without error.

    The file at the yielded name exists and is empty, so a place that cannot be written is found
    before the body does its work. It keeps the suffix of ``path``. Whatever the body raises, it is
    removed and the old ``path`` survives. A link stays a link: what it points to is written. An
    old file's permissions are kept. What is no regular file (a folder, a device, a pipe) is never
    replaced. An OSError of the body or of the renaming becomes an OutputError.
    """
    import secrets

    named, unfinished = Path(path), None
    try:
        old_mode = _mode_of_old(named)
        target = Path(os.path.realpath(named))
        remove_parts_of(target)
        unfinished = target.with_name(_part_name(target, secrets.token_hex(4)))
        # What replaces a private file is private from its first byte.
        unfinished.touch(0o666 if old_mode is None else 0o600, exist_ok=False)
        with hold(unfinished):
            yield unfinished
            if old_mode is not None:
                unfinished.chmod(old_mode)
            flush_to_disk(unfinished)
            unfinished.replace(target)
        flush_to_disk(target.parent)
    except OSError as error:
        raise cannot_write(named, error) from error
    finally:
        if unfinished is not None:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)


def remove_parts_of(path: Path) -> None:
    """Remove what killed processes wrote to become ``path``."""
    random = "[0-9a-f]" * 8
    for unfinished in path.parent.glob(_part_name(Path(glob.escape(path.name)), random)):
        if unfinished.is_file() and not is_held(unfinished):
            with suppress(OSError):
                unfinished.unlink()


def _part_name(target: Path, random: str) -> str:
    return f".{target.stem[:64]}-{random}.part{target.suffix}"


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Lock a file or folder, as a sign that a process is at it; the system lets go of it when the
    process ends, in whatever way."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _locked(descriptor)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def held_alone(path: Path) -> Iterator[bool]:
    """`hold` of a file, made where it is not there; False where another process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield _locked(descriptor)
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process may be at a file or folder; True where the system cannot tell."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return True
    try:
        return not _locked(descriptor)
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    """Whether the lock could be had."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):  # another process has it, or there are no locks here
        return False
    return True


def check_writable(path: str | os.PathLike[str]) -> None:
    """Raises OutputError where `atomic_path` would; the place is left as it was."""
    with suppress(_NothingToWriteError), atomic_path(path):
        raise _NothingToWriteError


class _NothingToWriteError(Exception):
    """Ends the writing of a file before it takes its name."""


def _mode_of_old(path: Path) -> int | None:
    """Permissions of the file at ``path``, None where there is none; OSError for anything else."""
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(None, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(None, "it is not a regular file")
    return stat.S_IMODE(mode)


def make_folder(path: str | os.PathLike[str]) -> Path:
    """Create the folder and its parents where they are missing; raises OutputError."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error
    return folder


@contextmanager
def made_folder(path: Path) -> Iterator[None]:
    """The folder is there in the body; where that fails, what was missing is missing again."""
    missing = [folder for folder in (path, *path.parents) if not os.path.lexists(folder)]
    try:
        make_folder(path)
        yield
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # whatever else stands in it by now stays
                folder.rmdir()
        raise


def check_folder(path: str | os.PathLike[str]) -> None:
    """Raises OutputError where `make_folder` could make none to write to; nothing is changed."""
    from tempfile import TemporaryFile

    folder = Path(path)
    there = next(parent for parent in (folder, *folder.parents) if os.path.lexists(parent))
    try:
        with TemporaryFile(dir=there):
            pass
    except OSError as error:
        raise cannot_write(folder, error) from error


def cannot_write(path: Path, error: OSError) -> OutputError:
    """The OutputError for an operating system error at ``path``."""
    reason = error.strerror or type(error).__name__
    return OutputError(
        code="cannot-write",
        message=f"cannot write: {reason[0].lower()}{reason[1:]}",
        place=str(path),
        hint=_hint(path, error),
    )


def _hint(path: Path, error: OSError) -> str:
    try:
        if isinstance(error, IsADirectoryError):
            return "name a file, not a folder"
        if path.exists() and not path.is_file():
            return "name a regular file; devices and pipes are not written to"
        if isinstance(error, NotADirectoryError):
            return "a file stands where a folder is needed; choose another place"
        if not path.parent.exists():
            return f"create the folder {path.parent} first"
        if not path.parent.is_dir():
            return f"{path.parent} is not a folder; choose another place"
    except OSError:
        return "choose another place"
    return "check the permissions and the free space, or choose another place"


def flush_to_disk(path: Path) -> None:
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


DIGITS = 16  # hexadecimal: 64 bits
SAMPLES, SAMPLE_BYTES = 64, 4096


def short_digest(text: str) -> str:
    """The first `DIGITS` hexadecimal digits of the SHA-256 of a text."""
    return text_digest(text)[:DIGITS]


def text_digest(text: str) -> str:
    """The whole SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def file_digest(path: Path) -> str:
    """The whole SHA-256 of a file; raises OSError for what is no regular file."""
    if not path.is_file():  # to open a pipe would wait
        raise OSError(None, "it is not a regular file")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sampled_digest(path: Path) -> str:
    """A digest of a file's size and of samples from all over it, however large it is.

    It tells files apart that are not the same; of a few changed bytes it knows nothing.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode("ascii"))
    with path.open("rb") as file:
        for number in range(SAMPLES):
            file.seek(max(0, size - SAMPLE_BYTES) * number // (SAMPLES - 1))
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()[:DIGITS]
