"""What goes to standard error: errors and notes. Colour only on a terminal."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rinsc.cli.output import print_note
from rinsc.errors import RinscError


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


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """What rinsc warns of is a note to who types commands, once; other warnings stay."""
    with warnings.catch_warnings():
        show, noted = warnings.showwarning, set[str]()

        def show_as_note(
            message: Warning | str, category: type[Warning], *place: Any, **more: Any
        ) -> None:
            if category.__module__.partition(".")[0] == "rinsc":
                if str(message) not in noted:
                    note(str(message))
                noted.add(str(message))
            else:
                show(message, category, *place, **more)

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
