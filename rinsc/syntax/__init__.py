"""The notation: text to tree and back, limits, sizes, canonical spelling and identity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rinsc.syntax.bind import bind
from rinsc.syntax.canonical import canonical
from rinsc.syntax.expand import check_limits, free_exponents, visit_count
from rinsc.syntax.identity import Identity, identity, schedule_fingerprint
from rinsc.syntax.normal import NormalForm, expand, normal_form, part_sizes, substitute
from rinsc.syntax.tree import (
    MAX_DEGREE,
    MAX_NESTING,
    MAX_TEXT,
    MAX_VISITS,
    BlockRef,
    Call,
    Node,
    Option,
    Repeat,
    Sequence,
    Signature,
    to_text,
)

if TYPE_CHECKING:
    from rinsc.syntax.parser import parse

__all__ = [
    "MAX_DEGREE",
    "MAX_NESTING",
    "MAX_TEXT",
    "MAX_VISITS",
    "BlockRef",
    "Call",
    "Identity",
    "Node",
    "NormalForm",
    "Option",
    "Repeat",
    "Sequence",
    "Signature",
    "bind",
    "canonical",
    "check_limits",
    "expand",
    "free_exponents",
    "identity",
    "normal_form",
    "parse",
    "part_sizes",
    "schedule_fingerprint",
    "substitute",
    "to_text",
    "visit_count",
]


def __getattr__(name: str) -> Any:
    """``parse`` on first use: it loads lark, which most of this package does without."""
    if name == "parse":
        from rinsc.syntax.parser import parse

        return parse
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
