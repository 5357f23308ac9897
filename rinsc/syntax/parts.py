"""What is said of each part, at whichever of its mentions it is said."""

from __future__ import annotations

from rinsc.syntax.degree import mentions, substitute
from rinsc.syntax.settings import BlockOptions, block_options
from rinsc.syntax.tree import Signature


def part_options(sig: Signature) -> dict[str, BlockOptions]:
    """The options of each part as a block, in order of first use, at degree 1."""
    found: dict[str, BlockOptions] = {}
    for ref in mentions(substitute(sig).body):
        here, known = block_options(ref.options), found.get(ref.letter, BlockOptions())
        found[ref.letter] = BlockOptions(here.tie or known.tie, here.kind or known.kind)
    return found
