"""What a person sees while text becomes tokens: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from rinsc.errors import plural, printable

if TYPE_CHECKING:
    from rich.console import Console

LINE_SECONDS = 10.0  # between two lines where there is no terminal


class PreparationProgress:
    """Shows on standard error how much text has become tokens; a context manager."""

    def __init__(self, name: str, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.markup import escape
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
        self._task = self._bar.add_task(escape(name), total=None)

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
