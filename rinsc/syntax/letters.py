"""What is said of each letter as a block, at whichever of its mentions it is said."""

from __future__ import annotations

from rinsc.syntax.problems import signature_error
from rinsc.syntax.settings import BlockOptions, block_options
from rinsc.syntax.tree import BlockRef, Signature, mentions


def letter_options(sig: Signature) -> dict[str, BlockOptions]:
    """The options of each letter as a block, in order of first mention; degree plays no part.

    Raises SignatureError (``conflicting-options``) where two mentions differ.
    """
    found: dict[str, BlockOptions] = {}
    for ref in mentions(sig.body):
        known = found.get(ref.letter, BlockOptions())
        if not ref.options:
            found.setdefault(ref.letter, known)
            continue
        here = block_options(ref.options)
        _check("tie", known.tie, here.tie, ref, sig)
        _check("kind", known.kind, here.kind, ref, sig)
        found[ref.letter] = BlockOptions(here.tie or known.tie, here.kind or known.kind)
    return found


def _check(name: str, known: str | None, here: str | None, ref: BlockRef, sig: Signature) -> None:
    if known is None or here is None or known == here:
        return
    (option,) = (option for option in ref.options if option.name == name)
    raise signature_error(
        "conflicting-options",
        f"{ref.letter} has {name}={known} at an earlier mention and {name}={here} here",
        sig.source,
        option.span,
        f"write {name} of a letter once",
    )
