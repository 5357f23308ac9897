"""The rolled tree of a signature, its limits, and its text. Spans take no part in equality."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from rinsc.errors import Span

Scalar: TypeAlias = int | float | str


@dataclass(frozen=True)
class Call:
    """An option's value with arguments: ``lora(8)``, ``uniform(1, 4)``."""

    name: str
    args: tuple[Scalar, ...]


@dataclass(frozen=True)
class Option:
    """``name=value`` in braces; ``value`` is True for a bare flag such as ``reverse``."""

    name: str
    value: Scalar | Call | bool
    span: Span = field(compare=False)


@dataclass(frozen=True)
class BlockRef:
    """One mention of a block: its letter, its size in layers where one is written, its options."""

    letter: str
    size: int | None
    options: tuple[Option, ...]
    span: Span = field(compare=False)


@dataclass(frozen=True)
class Repeat:
    """A body applied ``count`` times with shared weights; ``count`` is a name while it is free.

    ``owner`` tells apart the repeats that own weights, where `numbered_owners` has set it.
    """

    body: BlockRef | Sequence
    count: int | str
    options: tuple[Option, ...]
    span: Span = field(compare=False)
    owner: int = 0


@dataclass(frozen=True)
class Sequence:
    """Items in order. A sequence inside a sequence is a group that was written in parentheses."""

    items: tuple[Node, ...]
    span: Span = field(compare=False)


Node: TypeAlias = BlockRef | Repeat | Sequence


@dataclass(frozen=True)
class Signature:
    """A whole signature: its body, its degree and the text that the spans point into."""

    body: Sequence
    degree: int
    source: str = field(compare=False)


@dataclass(frozen=True)
class Tower:
    """One input of a model and the blocks that it goes through, under a name."""

    name: str
    signature: Signature
    span: Span = field(compare=False)  # of the name


@dataclass(frozen=True)
class Towers:
    """Several signatures that make one model: ``image: A^2B, text: CD``.

    Equal letters are equal weights across towers too. The spans of every signature point into the
    whole text.
    """

    towers: tuple[Tower, ...]
    source: str = field(compare=False)

    @property
    def signatures(self) -> dict[str, Signature]:
        """The signature of each tower as it is written, by name, in the order of the text."""
        return {tower.name: tower.signature for tower in self.towers}


def mentions(node: Node) -> Iterator[BlockRef]:
    """Every mention of a block, in the order of the text."""
    match node:
        case BlockRef():
            yield node
        case Repeat(body):
            yield from mentions(body)
        case Sequence(items):
            for item in items:
                yield from mentions(item)


def repeats(node: Node) -> Iterator[Repeat]:
    """Every repeat of a tree, outer before inner."""
    if isinstance(node, Repeat):
        yield node
        yield from repeats(node.body)
    elif isinstance(node, Sequence):
        for item in node.items:
            yield from repeats(item)


def rewritten(
    sequence: Sequence,
    *,
    ref: Callable[[BlockRef], BlockRef] = lambda ref: ref,
    repeat: Callable[[Repeat], Repeat] = lambda repeat: repeat,
) -> Sequence:
    """The tree with each mention and each repeat changed, in the order of the text.

    An outer repeat is changed before the inner ones; its body is not to be changed.
    """
    items = tuple([_rewritten(item, ref, repeat) for item in sequence.items])
    return Sequence(items, sequence.span)


def _rewritten(
    node: Node, ref: Callable[[BlockRef], BlockRef], repeat: Callable[[Repeat], Repeat]
) -> Node:
    match node:
        case BlockRef():
            return ref(node)
        case Sequence():
            return rewritten(node, ref=ref, repeat=repeat)
        case Repeat():
            changed = repeat(node)
            inner = _rewritten(node.body, ref, repeat)
            assert isinstance(inner, BlockRef | Sequence)
            return replace(changed, body=inner)


def with_repeat_options(sequence: Sequence, change: Callable[[Option], Option]) -> Sequence:
    """The tree with each option of a repeat changed."""
    return rewritten(
        sequence, repeat=lambda node: replace(node, options=tuple(map(change, node.options)))
    )


MAX_TEXT: Final = 4096  # characters
MAX_NESTING: Final = 64  # parentheses deep, after degree substitution
MAX_LOOP_DEPTH: Final = 16  # repeats inside repeats, after degree substitution
MAX_VISITS: Final = 1024  # visits of blocks in the flat word, after degree substitution
MAX_DRAWN_VISITS: Final = 65_536  # the same at the most rounds that training can draw
MAX_ROUNDS: Final = 1024  # of one repeat, drawn or asked for at run time
MAX_CHOICES: Final = 64  # numbers in ``choice``
MAX_LAYER_VISITS: Final = 65_536  # layers written out where two models are compared
MAX_TOWERS: Final = 8
MAX_DEGREE: Final = 8
MAX_DIGITS: Final = 4  # of a power or a size
MAX_NAME: Final = 32  # characters of a letter with its digits, or of a lower-case name
MAX_NUMBER_TEXT: Final = 18  # characters of a number in an option


def to_text(sig: Signature | Towers) -> str:
    """The signature's text. ``parse(to_text(t)) == t`` for every tree that `parse` can return, and
    so for `parse_towers`."""
    if isinstance(sig, Towers):
        return ", ".join(f"{tower.name}: {to_text(tower.signature)}" for tower in sig.towers)
    degree = f"@{sig.degree}" if sig.degree > 1 else ""
    return items_text(sig.body) + degree


def items_text(sequence: Sequence) -> str:
    """The items of a sequence, without parentheses round them."""
    return "".join(node_text(item) for item in sequence.items)


def node_text(node: Node) -> str:
    """One node; a sequence here is a group and gets parentheses."""
    match node:
        case BlockRef(letter, size, options):
            size_text = "" if size is None else f"[{size}]"
            return letter + size_text + options_text(options)
        case Repeat(body, count, options):
            return f"{node_text(body)}^{count}{options_text(options)}"
        case Sequence():
            return f"({items_text(node)})"


def options_text(options: tuple[Option, ...]) -> str:
    """``{name=value, flag}``, or nothing when there are none."""
    if not options:
        return ""
    return "{" + ", ".join(_option_text(option) for option in options) + "}"


def _option_text(option: Option) -> str:
    if option.value is True:
        return option.name
    if isinstance(option.value, Call):
        args = ", ".join(_scalar_text(arg) for arg in option.value.args)
        return f"{option.name}={option.value.name}({args})"
    return f"{option.name}={_scalar_text(option.value)}"


def _scalar_text(value: Scalar) -> str:
    return repr(value) if isinstance(value, float) else str(value)
