"""What a person sees while something takes its time: a bar on a terminal or in a notebook, lines
elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from rinsc.errors import plural, printable

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 10.0  # between two lines where there is no bar
QUIET_SECONDS = 2.0  # before a task is shown that may be over soon


class Observer(Protocol):
    """Is told how far some work is: the share that is ``done``, None where nobody knows it, and
    its ``state`` in words."""

    def __call__(self, done: float | None, state: str = "", /) -> None: ...


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
    """On standard error, and in a notebook below the cell.

    What is shown never fails: where a terminal was closed, a signal ends the program, not this.
    """

    def __init__(self, console: Console | None = None) -> None:
        self._console = console
        self._bar: Bar | None = None  # that stands on the terminal
        self._last_line = ""

    def line(self, text: str) -> None:
        if text == self._last_line:  # what a task tells of its state may be a line by itself
            return
        self._last_line = text
        with suppress(OSError):
            console = self._console if self._bar is None else self._bar.console
            if console is None:
                show_line(text)
            else:
                console.print(printable(text), markup=False, highlight=False, soft_wrap=True)

    def note(self, text: str) -> None:
        self.line(f"note: {text}")

    @contextmanager
    def task(self, what: str) -> Iterator[Observer]:
        with Task(what, self.line, self._opened) as task:
            try:
                yield task
            finally:
                self._bar = None

    def _opened(self, what: str) -> Bar | NotebookBar | None:
        """The bar that can be shown here."""
        if in_notebook() and self._console is None:
            return NotebookBar(what)
        if sys.stderr.isatty() if self._console is None else self._console.is_terminal:
            self._bar = Bar(what, self._console)
        return self._bar


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
        yield lambda done, state="": None


class Task:
    """Says what takes its time, once it does, and which part of it is done.

    A bar on a terminal that goes away, one in a notebook that stays. Elsewhere one line, or where
    there is a state to tell, a line now and then.
    """

    def __init__(
        self,
        what: str,
        line: Callable[[str], None],
        open_bar: Callable[[str], Bar | NotebookBar | None],
    ) -> None:
        self._what, self._line, self._open_bar = what, line, open_bar
        self._start = self._last_line = time.monotonic()
        self._is_shown = False
        self._bar: Bar | NotebookBar | None = None

    def __enter__(self) -> Task:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            with suppress(OSError):
                self._bar.stop()

    def __call__(self, done: float | None, state: str = "", /) -> None:
        now = time.monotonic()
        if not self._is_shown and now - self._start >= QUIET_SECONDS:
            self._is_shown = True
            with suppress(OSError):
                self._bar = self._open_bar(self._what)
            if self._bar is None and not state:
                self._line(f"{self._what} …")
        if self._bar is not None:
            with suppress(OSError):
                self._bar.show(done, state)
        elif state and now - self._last_line >= LINE_SECONDS:
            self._last_line = now
            self._line(f"{self._what} · {state}")


class Bar:
    """A bar on the terminal."""

    def __init__(self, what: str, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.markup import escape as escaped  # signatures hold brackets, as markup does
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = console or Console(file=sys.stderr)
        state = TextColumn("{task.fields[state]}", markup=False)
        columns = (BarColumn(), state, TimeRemainingColumn(compact=True))
        name = TextColumn("[bold]{task.description}")
        self._bar = Progress(name, *columns, console=self.console, transient=True)
        self._task = self._bar.add_task(escaped(printable(what)), total=None, state="")
        self._bar.start()

    def show(self, done: float | None, state: str) -> None:
        total = None if done is None else 1.0
        self._bar.update(self._task, completed=done, total=total, state=printable(state))

    def stop(self) -> None:
        self._bar.stop()


class NotebookBar:
    """A bar of HTML below the cell of a notebook, redrawn ten times a second at most."""

    def __init__(self, what: str) -> None:
        from IPython.display import display

        self._what, self._state = what, ""
        self._done: float | None = 0.0
        self._drawn = 0.0
        self._handle = display(self, display_id=True)  # type: ignore[no-untyped-call]

    def show(self, done: float | None, state: str) -> None:
        self._done, self._state = done, state
        if time.monotonic() - self._drawn >= 0.1 or (done or 0) >= 1:
            self._drawn = time.monotonic()
            self._handle.update(self)

    def stop(self) -> None:
        self._handle.update(self)

    def __repr__(self) -> str:
        share = "…" if self._done is None else f"{self._done:.0%}"
        return f"{self._what}: {share} {self._state}".rstrip()

    def _repr_html_(self) -> str:
        from html import escape  # of notebooks alone

        value = "" if self._done is None else f' value="{self._done:.3f}"'
        bar = f'{escape(self._what)} <progress max="1"{value}></progress>'
        return f"{bar} {escape(self._state)}".rstrip()


def in_notebook() -> bool:
    """Whether a kernel runs this code, which shows more than text."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class PreparationProgress:
    """Tells how much text has become tokens, as one task; a context manager."""

    def __init__(self, name: str, progress: Progress | None = None) -> None:
        self._name, self._progress = name, progress or ShownProgress()
        self._bytes, self._total = 0, 0
        self._start = time.monotonic()
        self._task = ExitStack()
        self._observe: Observer = lambda done, state="": None

    def __enter__(self) -> PreparationProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._task.close()

    def waiting(self) -> None:
        """Another process is at the same text."""
        self._progress.line(f"{self._name} · another process is tokenizing it; waiting")

    def started(self, total_bytes: int | None) -> None:
        self._start, self._total = time.monotonic(), total_bytes or 0
        self._observe = self._task.enter_context(self._progress.task(self._name))

    def advanced(self, byte_count: int) -> None:
        """So many more bytes of text are tokens."""
        self._bytes += byte_count
        done = min(1.0, self._bytes / self._total) if self._total else None
        self._observe(done, f"{self._bytes / 1e6:,.0f} MB tokenized")

    def finished(self, tokens: int) -> None:
        self._task.close()
        if self._bytes:
            seconds = time.monotonic() - self._start
            size = f"{self._bytes / 1e6:,.1f} MB"
            self._progress.line(
                f"{self._name} · {size} tokenized in {seconds:.1f} s · "
                f"{plural(tokens, 'token', f'{tokens:,}')}"
            )
