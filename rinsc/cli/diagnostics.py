"""What goes to standard error: errors and notes. Colour only on a terminal."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

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
    print(f"note: {text}", file=sys.stderr)


def _print_coloured(text: str) -> None:
    from rich.console import Console
    from rich.text import Text

    styled = Text(text)
    styled.highlight_regex(r"(?m)^error\[[^\]]*\]:", "bold red")
    styled.highlight_regex(r"(?m)^ +\^+$", "bold red")
    styled.highlight_regex(r"(?m)^  hint:", "bold cyan")
    Console(stderr=True).print(styled, soft_wrap=True)
