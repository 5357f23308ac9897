"""Several towers in one text: what their signatures share.

``image: AB, text: AC`` has two inputs. Each goes through a block of its own after A, whose weights
both towers use. What the text says of A in one tower holds in the other: ``image: A[4]B, text: AC``
has an A of 4 layers in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from rinsc.errors import SignatureError, Span
from rinsc.syntax.bind import bind, unknown_exponent
from rinsc.syntax.expand import free_exponents
from rinsc.syntax.normal import letter_sizes
from rinsc.syntax.settings import BlockOptions, letter_options
from rinsc.syntax.tree import (
    MAX_TOWERS,
    BlockRef,
    Option,
    Sequence,
    Signature,
    Towers,
    mentions,
    rewritten,
)


def check_towers(towers: Towers) -> None:
    """Raises SignatureError for towers that cannot be one model.

    ``too-many-towers``, ``duplicate-tower``, ``conflicting-degrees``, and for two mentions of a
    letter that differ: ``conflicting-sizes``, ``conflicting-options``.
    """
    if len(towers.towers) > MAX_TOWERS:
        message = f"{len(towers.towers)} towers; a model has at most {MAX_TOWERS}"
        span, hint = towers.towers[MAX_TOWERS].span, "leave some out"
        raise SignatureError("too-many-towers", message, source=towers.source, span=span, hint=hint)
    names: set[str] = set()
    degrees: dict[str, tuple[str, int]] = {}  # of each letter: the first tower, its degree
    for tower in towers.towers:
        if tower.name in names:
            message = f"two towers are called '{tower.name}'"
            raise _error("duplicate-tower", message, towers, tower.span, "rename one of them")
        names.add(tower.name)
        for ref in mentions(tower.signature.body):
            first, degree = degrees.setdefault(ref.letter, (tower.name, tower.signature.degree))
            if degree != tower.signature.degree:
                message = f"{ref.letter} has degree {degree} in {first}, and another here"
                hint = "give towers that share a block one degree"
                raise _error("conflicting-degrees", message, towers, ref.span, hint)
    _letter_facts(towers)


def tower_signatures(towers: Towers) -> dict[str, Signature]:
    """The signature of each tower by name, with what other towers say of its letters."""
    sizes, options = _letter_facts(towers)
    return {
        name: replace(sig, body=rewritten(sig.body, ref=_Completed(sizes, options).completed))
        for name, sig in towers.signatures.items()
    }


def bind_towers(towers: Towers, values: Mapping[str, int]) -> Towers:
    """The towers with every free exponent replaced by its value; raises as `bind` does."""
    free = {name: list(free_exponents(sig)) for name, sig in towers.signatures.items()}
    known = list(dict.fromkeys(name for names in free.values() for name in names))
    for name in values:
        if name not in known:
            raise unknown_exponent(name, known)
    bound = []
    for tower in towers.towers:
        own = {name: value for name, value in values.items() if name in free[tower.name]}
        bound.append(replace(tower, signature=bind(tower.signature, own)))
    return replace(towers, towers=tuple(bound))


def shared_letters(towers: Towers) -> tuple[str, ...]:
    """The letters of blocks that several towers use, in order of first use."""
    users: dict[str, set[str]] = {}
    for tower in towers.towers:
        for ref in mentions(tower.signature.body):
            users.setdefault(ref.letter, set()).add(tower.name)
    return tuple(letter for letter, names in users.items() if len(names) > 1)


def _error(code: str, message: str, towers: Towers, span: Span, hint: str) -> SignatureError:
    return SignatureError(code, message, source=towers.source, span=span, hint=hint)


def _letter_facts(towers: Towers) -> tuple[dict[str, int | None], dict[str, BlockOptions]]:
    """Sizes and options of the letters of all towers, as if one signature mentioned them."""
    items = tuple(item for tower in towers.towers for item in tower.signature.body.items)
    everything = Signature(Sequence(items, Span(0, 0)), 1, towers.source)
    sizes = letter_sizes(everything)
    for sig in towers.signatures.values():
        letter_sizes(sig)  # which knows the degree
    return sizes, letter_options(everything)


class _Completed:
    """A tree whose letters have their size and options at their first mention."""

    def __init__(
        self, sizes: Mapping[str, int | None], options: Mapping[str, BlockOptions]
    ) -> None:
        self._sizes, self._options = sizes, options
        self._mentioned: set[str] = set()

    def completed(self, node: BlockRef) -> BlockRef:
        """The mention with what is said of its letter, where it is the first."""
        if node.letter in self._mentioned:
            return node
        self._mentioned.add(node.letter)
        options = (*node.options, *self._missing(node))
        return replace(node, size=self._sizes[node.letter], options=options)

    def _missing(self, ref: BlockRef) -> Iterator[Option]:
        """What is said of its letter elsewhere."""
        block, here = self._options[ref.letter], {option.name for option in ref.options}
        for name, value in (("tie", block.tie), ("kind", block.kind)):
            if value is not None and name not in here:
                yield Option(name, value, ref.span)
