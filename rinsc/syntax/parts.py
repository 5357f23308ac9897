"""What is said of each part as a block."""

from __future__ import annotations

from rinsc.syntax.degree import substitute
from rinsc.syntax.letters import letter_options
from rinsc.syntax.settings import BlockOptions, block_options
from rinsc.syntax.tree import Signature, mentions


def part_options(sig: Signature) -> dict[str, BlockOptions]:
    """The options of each part as a block, in order of first use, at degree 1.

    Raises SignatureError (``conflicting-options``).
    """
    if sig.degree == 1:
        return letter_options(sig)
    refs = mentions(substitute(sig).body)
    return {ref.letter: block_options(ref.options) for ref in refs}
