"""The errors that every part of the data makes in the same words."""

from __future__ import annotations

from pathlib import Path

from rinsc.errors import DataError, Problem


def data_error(code: str, message: str, place: str | Path | None, hint: str) -> DataError:
    return DataError(Problem(code, message, place=None if place is None else str(place), hint=hint))


def cannot_read(path: Path, error: OSError) -> DataError:
    """What the operating system refuses to read."""
    reason = error.strerror or type(error).__name__
    hint = "check the permissions, or choose another place"
    return data_error("cannot-read", f"cannot read: {reason}", path, hint)


def damaged(path: Path, error: BaseException) -> DataError:
    """A file of the right kind that cannot be read to its end."""
    reason = str(error).partition("\n")[0][:200] or type(error).__name__
    return data_error("damaged-file", f"the file is damaged: {reason}", path, "get it again")


def not_utf8(byte: int, place: str | Path) -> DataError:
    hint = "convert the file to UTF-8"
    return data_error("not-utf8", f"byte {byte} is not UTF-8 text", place, hint)
