"""What a command prints: results and tables on standard output, the rest on error.

While a command runs, file descriptor 1 is standard error for everybody else: libraries, code in C
and child processes print what they like, and the result stays whole.
"""

from __future__ import annotations

import io
import json
import math
import os
import re
import sys
import textwrap
import unicodedata
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO, cast

from cyclopts import CycloptsError, UnknownCommandError, UnknownOptionError
from cyclopts.exceptions import UnusedCliTokensError

from rinsc.errors import REPLACEMENT, RinscError, UsageError, did_you_mean, nearest
from rinsc.progress import Observer, ShownProgress, SilentProgress
from rinsc.scalars import Table

if TYPE_CHECKING:
    from rich.console import Console

_result: TextIO | None = None

# Marks that turn the direction of text, and separators that end a line in some terminals.
_UNSAFE_MARKS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)
_UNSAFE_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")


@contextmanager
def result_alone() -> Iterator[None]:
    """In the body standard output takes only what the functions here print."""
    global _result
    outer, stdout = _result, sys.stdout
    if not _is_process_output(stdout):
        _result, sys.stdout = stdout, sys.stderr
        try:
            yield
        finally:
            _result, sys.stdout = outer, stdout
        return
    stdout.flush()
    saved = os.dup(1)
    try:
        with suppress(OSError):  # a shell can close standard error (``2>&-``)
            os.dup2(2, 1)
        _result, sys.stdout = _writer(saved, stdout), sys.stderr
        try:
            yield
            _result.flush()
        finally:
            with suppress(OSError, ValueError):  # of a reader that is gone
                _result.close()
            with suppress(OSError, ValueError):
                stdout.flush()
    finally:
        _result, sys.stdout = outer, stdout
        os.dup2(saved, 1)
        os.close(saved)


@contextmanager
def results_as_notes() -> Iterator[None]:
    """In the body what would be a result goes to standard error: the document is still to come."""
    global _result
    outer, _result = _result, sys.stderr
    try:
        yield
    finally:
        _result = outer


def result_stream() -> TextIO:
    """Where results go."""
    return sys.stdout if _result is None else _result


def print_result(text: str = "", *, end: str = "\n", flush: bool = False) -> None:
    """Text on standard output, with U+FFFD in place of what controls a terminal."""
    print(without_controls(text), end=end, file=result_stream(), flush=flush)


def print_text(text: str, *, end: str = "\n", flush: bool = False) -> None:
    """Text that a model wrote: as it is into files and pipes, without controls on a terminal."""
    shown = without_controls(text) if result_stream().isatty() else text
    print(shown, end=end, file=result_stream(), flush=flush)


def print_note(text: str, *, flush: bool = False) -> None:
    """A line about what was done, on standard error."""
    print(without_controls(text), file=sys.stderr, flush=flush)


def print_json(document: object) -> None:
    """The one JSON document of a command that was given --json."""
    print(_json(document, indent=2), file=result_stream())


def print_json_list(items: Iterable[object]) -> None:
    """One JSON document: a list whose items are printed as they come, a line each."""
    stream, before = result_stream(), "[\n"
    for item in items:
        stream.write(before + _json(item))
        before = ",\n"
    stream.write("[]\n" if before == "[\n" else "\n]\n")


def without_controls(text: str) -> str:
    """The text with U+FFFD for each character that controls a terminal; lines and tabs stay."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_safe(char) for char in text.replace("\r\n", "\n"))


def _safe(char: str) -> str:
    if char in "\n\t":
        return char
    is_unsafe = char in _UNSAFE_MARKS or unicodedata.category(char) in _UNSAFE_CATEGORIES
    return REPLACEMENT if is_unsafe else char


def _json(document: object, indent: int | None = None) -> str:
    """JSON in characters that the stream has and that control no terminal."""
    encoding = (getattr(result_stream(), "encoding", None) or "utf-8").lower()
    ascii_alone = encoding.replace("-", "").replace("_", "") != "utf8"
    text = json.dumps(_finite(document), indent=indent, ensure_ascii=ascii_alone)
    return re.sub(r"[^\x20-\x7e\n]", lambda match: _escaped(match.group()), text)


def _escaped(char: str) -> str:
    return char if _safe(char) == char else f"\\u{ord(char):04x}"


def _finite(value: object) -> object:
    """JSON has no number that is not finite: null stands in its place."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def _is_process_output(stream: Any) -> bool:
    """Whether a stream is the process's own standard output, as no test's and no notebook's is."""
    try:
        return isinstance(stream, io.TextIOWrapper) and stream.fileno() == 1
    except (OSError, ValueError):
        return False


def _writer(descriptor: int, like: TextIO) -> TextIO:
    """A stream to a descriptor, which it does not own, that encodes and buffers like another."""
    raw = io.FileIO(descriptor, "w", closefd=False)
    is_terminal = os.isatty(descriptor)
    stream = io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=like.encoding,
        errors=like.errors,
        line_buffering=is_terminal,
    )
    return cast(TextIO, stream)


PIPED_WIDTH = 100  # columns where there is no terminal


def console(least_width: int = 0) -> Console:
    """A console on standard output that takes no text for markup."""
    from rich.console import Console

    class ResultConsole(Console):
        def on_broken_pipe(self) -> None:  # rich would end the process with status 1
            raise BrokenPipeError

    stream = result_stream()
    width = None if stream.isatty() else PIPED_WIDTH
    shown = ResultConsole(file=stream, width=width, markup=False, highlight=False, emoji=False)
    if shown.width < least_width:
        shown.width = least_width
    return shown


def print_line(text: str = "", style: str = "") -> None:
    """A line of its own, never folded."""
    console().print(without_controls(text), style=style, soft_wrap=True)


def print_table(
    heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[int] = (0,)
) -> None:
    """`print_result_table` of heads and rows."""
    print_result_table(Table(heads, list(rows), left))


def print_result_table(table: Table) -> None:
    """A table on standard output; a cell may start with ``!``: then its row is marked as failed."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as Grid

    heads, rows, left = table
    rows = [[without_controls(cell) for cell in row] for row in rows]
    failed = [any(cell.startswith("!") for cell in row) for row in rows]
    cells = [list(heads), *([cell.removeprefix("!") for cell in row] for row in rows)]
    heads, *rows = _folded(cells, left, console().width)
    grid = Grid(
        box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_edge=False
    )
    for index, head in enumerate(heads):
        grid.add_column(head, no_wrap=True, justify="left" if index in left else "right")
    for row, is_failed in zip(rows, failed, strict=True):
        grid.add_row(*row, style="red" if is_failed else "")
    endless = console(least_width=10_000)
    console(least_width=endless.measure(grid).maximum).print(grid)


COLUMN_GAP = 2  # columns of text between two of a table


def _folded(cells: list[list[str]], left: Sequence[int], width: int) -> list[list[str]]:
    """The rows, with words of the columns ``left`` on further lines where there is little room.

    The widest of them give way first, down to their longest word. Numbers are never cut: one that
    lost a digit would be another. Rich folds, too, but where columns have a least width it loses
    what does not fit.
    """
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    excess = sum(widths) + COLUMN_GAP * (len(widths) - 1) - width
    for index in sorted(left, key=lambda index: -widths[index]):
        least = max(len(word) for cell in columns[index] for word in cell.split() or [""])
        room = min(max(excess, 0), widths[index] - least)
        widths[index] -= room
        excess -= room

    def folded(cell: str, index: int) -> str:
        if len(cell) <= widths[index]:
            return cell
        return "\n".join(textwrap.wrap(cell, widths[index], break_on_hyphens=False))

    return [[folded(cell, index) for index, cell in enumerate(row)] for row in cells]


def print_error(error: RinscError) -> None:
    """The error's text; on a terminal with colour, elsewhere exactly ``str(error)``."""
    with suppress(OSError):  # nobody can be told that nobody can be told
        if sys.stderr.isatty() and "NO_COLOR" not in os.environ:
            _print_coloured(str(error))
        else:
            print(error, file=sys.stderr)


def note(text: str) -> None:
    """Something that the user should know, and that is no mistake."""
    print_note(f"note: {text}")


class CommandProgress(ShownProgress):
    """What a verb tells while a command runs; its tasks are not shown where it is ``quiet``."""

    def __init__(self, *, quiet: bool = False) -> None:
        super().__init__()
        self._quiet = quiet

    @contextmanager
    def task(self, what: str) -> Iterator[Observer]:
        with SilentProgress().task(what) if self._quiet else super().task(what) as observer:
            yield observer


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """What rinsc warns of is a note to who types commands, once; other warnings stay."""
    with warnings.catch_warnings():
        show, noted = warnings.showwarning, set[str]()

        def show_as_note(
            message: Warning | str, category: type[Warning], *location: Any, **more: Any
        ) -> None:
            if category.__module__.partition(".")[0] == "rinsc":
                if str(message) not in noted:
                    note(str(message))
                noted.add(str(message))
            else:
                show(message, category, *location, **more)

        warnings.showwarning = show_as_note
        yield


def _print_coloured(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    styled = Text(text)
    styled.highlight_regex(r"(?m)^error\[[^\]]*\]:", "bold red")
    styled.highlight_regex(r"(?m)^ +\^+$", "bold red")
    styled.highlight_regex(r"(?m)^  hint:", "bold cyan")
    Console(stderr=True).print(styled, soft_wrap=True)


_SUGGESTION = re.compile(r"\s*Did you mean (?P<words>.*\?)$")


def usage_error(error: CycloptsError) -> UsageError:
    """The parser's complaint as an error of ours: one message, and one hint."""
    command = " ".join(("rinsc", *(error.command_chain or ())))
    see = f"see {command} --help"
    if isinstance(error, UnknownCommandError) and error.unused_tokens:
        return _error(*_unknown_command(error, error.unused_tokens[0], command))
    if isinstance(error, UnknownOptionError):
        return _error(*_unknown_option(error, command, see))
    if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
        names = " and ".join(f"'{token}'" for token in error.unused_tokens[:3])
        return _error(f"{command} has no use for {names}", see)
    message = " ".join(str(error).split()).rstrip(".")
    suggestion = _SUGGESTION.search(message)
    if suggestion is not None:
        return _error(message[: suggestion.start()], f"did you mean {suggestion['words']}")
    return _error(message, see)


def _unknown_command(error: UnknownCommandError, token: str, command: str) -> tuple[str, str]:
    names = list(error.app) if error.app is not None else []
    if token.startswith("-"):
        message = f"{command} has no option '{token}'"
        return message, did_you_mean(token, [name for name in names if name.startswith("-")])
    message = f"{command} has no command '{token}'"
    # A word may also be that of an option: rinsc help, rinsc version.
    close = nearest(token, names)
    commands = [name for name in names if not name.startswith("-")]
    return message, f"did you mean '{close}'?" if close else f"one of: {', '.join(commands)}"


def _unknown_option(error: UnknownOptionError, command: str, see: str) -> tuple[str, str]:
    keyword = (error.token.keyword or error.token.value or "").partition("=")[0]
    names = (
        name for argument in error.argument_collection if argument.parse for name in argument.names
    )
    options = {name.lstrip("-"): name for name in names if name.startswith("--")}
    close = nearest(keyword.lstrip("-").replace("_", "-"), options, cutoff=0.6)
    hint = see if close is None else f"did you mean '{options[close]}'?"
    return f"{command} has no option '{keyword}'", hint


def _error(message: str, hint: str) -> UsageError:
    return UsageError("usage", message, hint=hint)
