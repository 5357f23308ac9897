"""Tables on standard output, plain enough to read when piped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rinsc.cli.output import result_stream, without_controls

if TYPE_CHECKING:
    from rich.console import Console

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
    """Rows under a line of heads; the columns named in ``left`` hold words, the others numbers.

    A cell may start with ``!``: then its row is marked as failed.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(
        box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold", show_edge=False
    )
    rows = [[without_controls(cell) for cell in row] for row in rows]
    for index, head in enumerate(heads):
        cells = [head, *(row[index] for row in rows)]
        if index in left:
            # Words fold where there is little room.
            least = max(len(word) for cell in cells for word in cell.split() or [""])
            table.add_column(head, min_width=least, overflow="fold")
        else:
            # A number that lost a digit would be another number.
            table.add_column(head, min_width=max(map(len, cells)), no_wrap=True, justify="right")
    for row in rows:
        failed = any(cell.startswith("!") for cell in row)
        table.add_row(*(cell.removeprefix("!") for cell in row), style="red" if failed else "")
    endless = console(least_width=10_000)
    console(least_width=endless.measure(table).minimum).print(table)
