"""What a library in Rust prints when its own code fails, kept off the terminal.

It writes to the descriptor of standard error before Python hears of it. So in the body of `quiet`
that descriptor is a file in memory, which all threads share; what else was written to it meanwhile
is passed on.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from tempfile import TemporaryFile
from threading import Lock
from typing import IO

from rinsc.errors import DataError

STDERR = 2
_HEADER = rb"\n?thread '[^\n]*' [^\n]*panicked at [^\n]*\n"
_NOTE = rb"(?:stack backtrace:\n(?: +[^\n]*\n)*)?(?:note: [^\n]*backtrace[^\n]*\n)?"


class _Kept:
    """The real standard error, while a file stands in its place; how many bodies are running."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.bodies = 0
        self.real: int | None = None
        self.file: IO[bytes] | None = None
        self.panics: list[str] = []


_kept = _Kept()


@contextmanager
def quiet() -> Iterator[None]:
    """In the body no panic of a library is printed; it is raised all the same."""
    _begin()
    try:
        yield
    except BaseException as error:
        if is_panic(error):
            _kept.panics.append(str(error))
        raise
    finally:
        _end()


def is_panic(error: BaseException) -> bool:
    """Whether the code of a library in Rust failed; that is no Exception."""
    return type(error).__name__ == "PanicException"


def _begin() -> None:
    with _kept.lock:
        _kept.bodies += 1
        if _kept.bodies == 1:
            with suppress(OSError):  # no standard error, or no place for a file
                _kept.file = _kept.file or TemporaryFile(buffering=0)  # noqa: SIM115
                _kept.real = os.dup(STDERR)
                os.dup2(_kept.file.fileno(), STDERR)


def _end() -> None:
    with _kept.lock:
        _kept.bodies -= 1
        if _kept.bodies or _kept.real is None or _kept.file is None:
            return
        os.dup2(_kept.real, STDERR)
        os.close(_kept.real)
        _kept.real = None
        if _kept.file.tell():
            _kept.file.seek(0)
            written = _kept.file.read()
            _kept.file.seek(0)
            _kept.file.truncate()
            _pass_on(written)
        _kept.panics.clear()


def _pass_on(written: bytes) -> None:
    """Write what is no panic's: of other threads of the library the message may differ."""
    if _kept.panics:
        texts = [re.escape(message.encode("utf-8", "replace")) for message in _kept.panics]
        body = b"(?:" + b"|".join([*texts, rb"[^\n]*"]) + rb")\n"
        written = re.sub(_HEADER + body + _NOTE, b"", written)
    if written:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
            os.write(STDERR, written)


@contextmanager
def library_failures(message: str) -> Iterator[None]:
    """What the library tokenizers raises becomes a DataError that begins with ``message``.

    It raises bare Exception, and where its own code fails a ``PanicException``, which is none.
    """
    try:
        with quiet():
            yield
    except BaseException as error:
        if isinstance(error, DataError) or not (is_panic(error) or isinstance(error, Exception)):
            raise
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        hint = "use another tokenizer.json: one with a token for what it does not know, not damaged"
        raise DataError("tokenizer-failed", f"{message}: {reason}", hint=hint) from error
