"""What goes to standard error: errors, notes, and command lines that cannot be read."""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from cyclopts import CycloptsError, UnknownCommandError, UnknownOptionError
from cyclopts.exceptions import UnusedCliTokensError

from rinsc.cli.output import print_note
from rinsc.errors import RinscError, UsageError, did_you_mean, nearest
from rinsc.progress import Observer, ShownProgress, SilentProgress


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
    found = _SUGGESTION.search(message)
    if found is not None:
        return _error(message[: found.start()], f"did you mean {found['words']}")
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
    names = (name for each in error.argument_collection if each.parse for name in each.names)
    known = {name.lstrip("-"): name for name in names if name.startswith("--")}
    close = nearest(keyword.lstrip("-").replace("_", "-"), known, cutoff=0.6)
    hint = see if close is None else f"did you mean '{known[close]}'?"
    return f"{command} has no option '{keyword}'", hint


def _error(message: str, hint: str) -> UsageError:
    return UsageError("usage", message, hint=hint)
