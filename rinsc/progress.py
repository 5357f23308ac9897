"""What a person sees while something takes its time: a bar on a terminal or in a notebook, lines
elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from html import escape
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, TypeAlias

from rinsc.errors import plural, printable

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 10.0  # between two lines where there is no terminal
QUIET_SECONDS = 2.0  # before a task is shown

Observer: TypeAlias = Callable[[float], None]  # told which part of the work is done


class Progress(Protocol):
    """What a verb tells while it works. Give one of your own to show it elsewhere."""

    def line(self, text: str) -> None:
        """Something that was done."""

    def note(self, text: str) -> None:
        """Something that you should know, and that is no mistake."""

    def task(self, what: str) -> AbstractContextManager[Observer]:
        """Work that takes its time; in the body, the observer is told how far it is."""


def show_line(text: str) -> None:
    """A line on standard error, which a notebook shows below the cell."""
    print(printable(text), file=sys.stderr, flush=True)


class ShownProgress:
    """On standard error, and in a notebook below the cell."""

    def line(self, text: str) -> None:
        show_line(text)

    def note(self, text: str) -> None:
        self.line(f"note: {text}")

    @contextmanager
    def task(self, what: str) -> Iterator[Observer]:
        with LateProgress(what, self.line) as observer:
            yield observer


class SilentProgress:
    """Keeps quiet, and has the notes for you to read."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def line(self, text: str) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    @contextmanager
    def task(self, what: str) -> Iterator[Observer]:
        yield lambda done: None


class LateProgress:
    """Says what takes its time, once it does, and which part of it is done.

    A bar on a terminal that goes away, one in a notebook that stays, elsewhere one line.
    """

    def __init__(self, what: str, line: Callable[[str], None] = show_line) -> None:
        self._what, self._line = what, line
        self._start = time.monotonic()
        self._begun = False
        self._bar: Bar | NotebookBar | None = None

    def __enter__(self) -> LateProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: float) -> None:
        if not self._begun and time.monotonic() - self._start >= QUIET_SECONDS:
            self._begun = True
            self._bar = _bar(self._what)
            if self._bar is None:
                self._line(f"{self._what} …")
        if self._bar is not None:
            self._bar.show(done)


def _bar(what: str) -> Bar | NotebookBar | None:
    """The bar that can be shown here."""
    if in_notebook():
        return NotebookBar(what)
    return Bar(what) if sys.stderr.isatty() else None


class Bar:
    """A bar on the terminal."""

    def __init__(self, what: str) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn(compact=True))
        self._bar = Progress(*columns, console=Console(file=sys.stderr), transient=True)
        self._task = self._bar.add_task(what, total=1.0)
        self._bar.start()

    def show(self, done: float) -> None:
        self._bar.update(self._task, completed=done)

    def stop(self) -> None:
        self._bar.stop()


class NotebookBar:
    """A bar of HTML below the cell of a notebook, redrawn ten times a second at most."""

    def __init__(self, what: str) -> None:
        from IPython.display import display

        self._what, self._done, self._drawn = what, 0.0, 0.0
        self._handle = display(self, display_id=True)  # type: ignore[no-untyped-call]

    def show(self, done: float) -> None:
        self._done = done
        if time.monotonic() - self._drawn >= 0.1 or done >= 1:
            self._drawn = time.monotonic()
            self._handle.update(self)

    def stop(self) -> None:
        self._handle.update(self)

    def __repr__(self) -> str:
        return f"{self._what}: {self._done:.0%}"

    def _repr_html_(self) -> str:
        return f'{escape(self._what)} <progress max="1" value="{self._done:.3f}"></progress>'


def in_notebook() -> bool:
    """Whether a kernel runs this code, which shows more than text."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class PreparationProgress:
    """Shows on standard error how much text has become tokens; a context manager."""

    def __init__(self, name: str, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.markup import escape as escaped
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
        )

        self._name = name = printable(name)
        self._console = console or Console(file=sys.stderr)
        self._bytes = 0
        self._start = self._last_line = time.monotonic()
        self._bar = Progress(
            TextColumn("[bold]{task.description}", markup=True),
            BarColumn(bar_width=None),
            DownloadColumn(),
            TimeRemainingColumn(compact=True),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._task = self._bar.add_task(escaped(name), total=None)

    def __enter__(self) -> PreparationProgress:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def waiting(self) -> None:
        """Another process is at the same text."""
        self._line("another process is tokenizing it; waiting")

    def started(self, total_bytes: int | None) -> None:
        self._start = time.monotonic()
        self._bar.reset(self._task, total=total_bytes)

    def advanced(self, byte_count: int) -> None:
        """So many more bytes of text are tokens."""
        self._bytes += byte_count
        self._bar.update(self._task, completed=self._bytes)
        if self._bar.disable and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._line(f"{self._bytes / 1e6:,.0f} MB tokenized")

    def finished(self, tokens: int) -> None:
        if self._bytes:
            seconds = time.monotonic() - self._start
            size = f"{self._bytes / 1e6:,.1f} MB"
            self._line(
                f"{size} tokenized in {seconds:.1f} s · {plural(tokens, 'token', f'{tokens:,}')}"
            )

    def _line(self, text: str) -> None:
        self._last_line = time.monotonic()
        line = f"{self._name} · {text}"
        self._console.print(line, markup=False, highlight=False, soft_wrap=True)
