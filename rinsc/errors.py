"""Every mistake of a user, as data: one exception family, and one place where its text is made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, Self


@dataclass(frozen=True)
class Span:
    """Half-open range of character offsets into a source text."""

    start: int
    end: int


@dataclass(frozen=True)
class Problem:
    """One mistake: what, where and what to do about it.

    ``source`` and ``span`` point into a text; ``place`` names a file, key or file region where
    there is no text to point into (``zoo/rins.toml: heads``).
    """

    code: str
    message: str
    source: str | None = None
    span: Span | None = None
    place: str | None = None
    hint: str | None = None


class RinscError(Exception):
    """Base of every error that a user's mistake can cause; holds one or more problems as data.

    >>> import rinsc
    >>> try:
    ...     rinsc.parse("A^0")
    ... except rinsc.RinscError as error:
    ...     print(error.code, error.problems[0].span)
    bad-power Span(start=2, end=3)
    """

    exit_status = 1
    problems: tuple[Problem, ...]

    def __init__(
        self,
        code: str,
        message: str,
        *,
        source: str | None = None,
        span: Span | None = None,
        place: str | None = None,
        hint: str | None = None,
    ) -> None:
        self._hold(Problem(code, message, source, span, place, hint))

    @classmethod
    def of(cls, *problems: Problem) -> Self:
        """The error for problems that were collected, or that another error holds."""
        error = cls.__new__(cls)
        error._hold(*problems)
        return error

    def _hold(self, *problems: Problem) -> None:
        if not problems:
            raise ValueError("an error needs at least one problem")
        self.args = self.problems = problems

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).of, self.problems

    @property
    def code(self) -> str:
        return self.problems[0].code

    @property
    def message(self) -> str:
        return self.problems[0].message

    @property
    def span(self) -> Span | None:
        return self.problems[0].span

    @property
    def hint(self) -> str | None:
        return self.problems[0].hint

    def __str__(self) -> str:
        return "\n".join(render(problem) for problem in self.problems)


class SignatureError(RinscError):
    """The signature's text is not in the notation, or says something impossible."""


class SpecError(RinscError):
    """A model specification has unknown keys, bad values or impossible combinations."""


class GraphError(RinscError):
    """A block graph breaks a rule, or is asked for rounds that it cannot run."""


class LoweringError(RinscError):
    """A graph cannot be lowered to the backend or form that was asked for."""


class CheckpointError(RinscError):
    """A file of weights, a checkpoint or an exported model is damaged or of another model."""


class MissingExtraError(RinscError):
    """An optional dependency is needed and not installed."""


class DataError(RinscError):
    """A corpus or tokenizer cannot be found or read."""


class OutputError(RinscError):
    """A result cannot be written where it was asked for."""


class UsageError(RinscError):
    """The command was put together wrongly; the model itself may be fine."""

    exit_status = 2


@contextmanager
def option_values(options: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """Whatever is wrong inside comes of the value of an option: a mistake in its use.

    ``options`` names the option at which a setting of another name is given.
    """
    try:
        yield
    except RinscError as error:
        placed = (replace(p, place=options.get(p.place or "", p.place)) for p in error.problems)
        raise UsageError.of(*placed) from None


_IN_A_COMMAND: ContextVar[bool] = ContextVar("in_a_command", default=False)


@contextmanager
def settings_as_options() -> Iterator[None]:
    """In the body errors spell settings as options of a command line."""
    token = _IN_A_COMMAND.set(True)
    try:
        yield
    finally:
        _IN_A_COMMAND.reset(token)


def setting(name: str, option: str | None = None) -> str:
    """A setting as you write it: ``held_out`` in Python, ``--held-out`` in a command.

    ``option`` is how a command spells it where that is another word.
    """
    if not _IN_A_COMMAND.get():
        return name
    return option or f"--{name.replace('_', '-')}"


def require_type(
    name: str,
    value: object,
    types: type | tuple[type, ...],
    example: str,
    *,
    optional: bool = False,
) -> None:
    """Raises UsageError where a setting is of none of the ``types``; None may be ``optional``."""
    if isinstance(value, types) or (optional and value is None):
        return
    message = f"{setting(name)} is {value!r:.60}, which cannot be used"
    raise UsageError("bad-type", message, hint=f"write {example}")


def render(problem: Problem) -> str:
    """The plain text of a problem: head, place or caret line, hint. No colour.

    Words of a user stand in it, so what is unprintable (line breaks, codes of terminals) is not
    passed on.
    """
    lines = [f"error[{problem.code}]: {printable(problem.message)}"]
    if problem.place is not None:
        lines.append(f"  at {printable(problem.place)}")
    if problem.source is not None and problem.span is not None:
        lines.extend(_caret_lines(problem.source, problem.span))
    if problem.hint is not None:
        lines.append(f"  hint: {printable(problem.hint)}")
    return "\n".join(lines)


REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # in place of what cannot be shown
_WINDOW = 76  # columns of source shown at most


def _caret_lines(source: str, span: Span) -> list[str]:
    """The source line that holds the span's start, cut to a window, and carets below it."""
    line_start = source.rfind("\n", 0, span.start) + 1
    line_end = source.find("\n", span.start)
    line_end = len(source) if line_end < 0 else line_end
    first = max(line_start, min(span.start - _WINDOW // 2, line_end - _WINDOW))
    text = source[first : min(line_end, first + _WINDOW)]
    width = max(1, min(span.end, first + len(text)) - span.start)
    return [f"  {printable(text)}", f"  {' ' * (span.start - first)}{'^' * width}"]


def printable(text: str) -> str:
    """A line of the text with one replacement character for each that cannot be shown."""
    return "".join(char if char.isprintable() else REPLACEMENT for char in text)


def nearest(name: str, names: Iterable[str], cutoff: float = 0.5) -> str | None:
    """The known word most like ``name``, or None when none is close."""
    import difflib  # only a mistake needs it

    matches = difflib.get_close_matches(name, list(names), n=1, cutoff=cutoff)
    return matches[0] if matches else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """A hint for an unknown word: the nearest known one, else the whole list."""
    names = list(names)
    close = nearest(name, names)
    return f"did you mean '{close}'?" if close else f"one of: {', '.join(names)}"


def plural(count: int, noun: str, number: str | None = None) -> str:
    """``1 layer``, ``3 layers``; ``number`` is how the count is written, as ``3,000``."""
    return f"{count if number is None else number} {noun}{'s' * (count != 1)}"


def shown(text: str) -> str:
    """``text`` in quotes, only its start when it is long; an unprintable one as its code point."""
    if len(text) == 1 and not text.isprintable():
        return f"U+{ord(text):04X}"
    text = text if len(text) <= 20 else text[:17] + "..."
    return f"'{text}'"


def listed(texts: Sequence[str], most: int, between: str = ", ") -> str:
    """The texts in a row, the first ``most`` of them where there are more."""
    more = len(texts) - most
    return between.join(texts[:most]) + (f"{between}… and {more} more" if more > 0 else "")
