"""The identity of a model as data: a word over atoms, and what each atom is."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

from rinsc.syntax.settings import BlockOptions, RepeatOptions


@dataclass(frozen=True)
class LinearForm:
    """A size in layers, ``constant + per_layer * L`` for a stack of L layers."""

    constant: Fraction | int
    per_layer: Fraction | int = 0

    def __add__(self, other: LinearForm) -> LinearForm:
        return LinearForm(self.constant + other.constant, self.per_layer + other.per_layer)


@dataclass(frozen=True)
class AtomVisit:
    """One visit of an atom: parts that always stand together in the same order."""

    atom: int
    each: int = 1
    reverse: bool = False


@dataclass(frozen=True)
class AtomRepeat:
    """A repeat with options, which its unfolded visits would not say.

    ``owner`` is the number of the weights that it owns, 0 without any.
    """

    word: Word
    count: int
    options: RepeatOptions
    owner: int


Word: TypeAlias = tuple[AtomVisit | AtomRepeat, ...]


@dataclass(frozen=True)
class Identity:
    """The word over atoms, numbered by first use, and what each atom is. Equal: the same model."""

    word: Word
    sizes: tuple[LinearForm, ...]
    blocks: tuple[BlockOptions, ...]

    @property
    def text(self) -> str:
        """A text that is equal exactly when the identities are."""
        sizes = " ".join(f"{size.constant}+{size.per_layer}L" for size in self.sizes)
        said = " ".join(f"{block.tie}/{block.kind}" for block in self.blocks)
        plain = all(block == BlockOptions() for block in self.blocks)
        return f"{_word_text(self.word)}|{sizes}" + ("" if plain else f"|{said}")


def _word_text(word: Word) -> str:
    return " ".join(
        f"({_word_text(item.word)})^{item.count}{item.options}#{item.owner}"
        if isinstance(item, AtomRepeat)
        else f"{item.atom}" + f"*{item.each}" * (item.each > 1) + "r" * item.reverse
        for item in word
    )
