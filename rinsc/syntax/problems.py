"""One short way to make the errors of a signature."""

from __future__ import annotations

from rinsc.errors import Problem, SignatureError, Span


def signature_error(
    code: str, message: str, source: str, span: Span, hint: str | None = None
) -> SignatureError:
    """A SignatureError with one problem that points into ``source``."""
    return SignatureError(Problem(code, message, source=source, span=span, hint=hint))


def plural(count: int, noun: str, number: str | None = None) -> str:
    """``1 layer``, ``3 layers``; ``number`` is how the count is written, as ``3,000``."""
    return f"{count if number is None else number} {noun}{'s' * (count != 1)}"


def shown(text: str) -> str:
    """``text`` in quotes, only its start when it is long; an unprintable one as its code point."""
    if len(text) == 1 and not text.isprintable():
        return f"U+{ord(text):04X}"
    text = text if len(text) <= 20 else text[:17] + "..."
    return f"'{text}'"
