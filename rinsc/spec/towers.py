"""The spec of a model of several towers: one `ModelSpec` a tower, equal where they share blocks.

``model_spec("image: AB, text: AC", towers={"image": {"kind": "vit"}, "text": {"kind": "gpt"}})``
has two towers. They share A, so that A has one kind, one size and one width in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from rinsc.errors import Problem, SpecError
from rinsc.spec.checks import at_key
from rinsc.spec.model import KEYS, ModelSpec
from rinsc.spec.settings import FORMER_KEYS
from rinsc.syntax.towers import tower_signatures
from rinsc.syntax.tree import Towers, to_text

# What says nothing of the layers of a block: how a tower begins and ends, and how long it is. Of
# kinds and sizes, those of each block count, not those of the tower.
FRAME_KEYS = frozenset(
    (
        *("signature", "kind", "layers"),
        *("vocab_size", "context", "tied_embedding", "head_dim", "settings"),
    )
)


@dataclass(frozen=True)
class TowersSpec:
    """Towers with every exponent bound, and the spec of each, in the order of the text.

    Equal letters are one block. Raises `SpecError` for a block that differs between its towers.
    """

    signature: Towers
    specs: tuple[ModelSpec, ...]

    def __post_init__(self) -> None:
        names = list(self.signature.signatures)
        if len(names) != len(self.specs) or not all(isinstance(s, ModelSpec) for s in self.specs):
            message = f"{len(names)} towers need as many model specs"
            raise SpecError("not-a-spec", message, hint="make it with rinsc.model_spec")
        for name, tree in tower_signatures(self.signature).items():
            if self.towers[name].signature != tree:
                message = f"the spec of the tower {name} has another signature"
                raise SpecError("not-a-spec", message, hint="make it with rinsc.model_spec")
        problems = list(sharing_problems(self.towers, None))
        if problems:
            raise SpecError.of(*problems)

    def __repr__(self) -> str:
        return f"TowersSpec({self.text!r}, {dict(self.towers)!r})"

    @property
    def text(self) -> str:
        """The towers as text, structure kept, exponents bound."""
        return to_text(self.signature)

    @cached_property
    def towers(self) -> Mapping[str, ModelSpec]:
        """The spec of each tower by name; its signature says all that the text says of a letter."""
        return dict(zip(self.signature.signatures, self.specs, strict=True))

    @cached_property
    def shared_blocks(self) -> tuple[str, ...]:
        """The blocks that several towers visit, in order of first use."""
        users = block_users(self.towers)
        return tuple(block for block, names in users.items() if len(names) > 1)


def block_users(towers: Mapping[str, ModelSpec]) -> dict[str, list[str]]:
    """The towers that visit each block, blocks in order of first use."""
    users: dict[str, list[str]] = {}
    for name, spec in towers.items():
        for block in spec.parts:
            users.setdefault(block, []).append(name)
    return users


def sharing_problems(towers: Mapping[str, ModelSpec], place: str | None) -> Iterator[Problem]:
    """What differs between the towers of a block; a key is told once for two towers."""
    told: set[tuple[str, str, str]] = set()
    for block, (first, *others) in block_users(towers).items():
        for other in others:
            for key, one, two in _differences(block, towers[first], towers[other]):
                if (key, first, other) in told:
                    continue
                told |= {(key, first, other)} if key in KEYS else set()
                yield Problem(
                    "towers-differ",
                    f"block {block} is in the towers {first} and {other}, "
                    f"and {key} is {one} in {first} and {two} in {other}",
                    place=at_key(tower_place(place, other), key.rpartition(" ")[2]),
                    hint=f"give both towers one value, or call the block of {other} by a letter "
                    "of its own",
                )


def tower_place(place: str | None, name: str) -> str:
    """Where the dimensions of a tower stand: its table, of a file or of an argument."""
    return at_key(place, f"towers.{name}")


def _settings(spec: ModelSpec, block: str) -> dict[str, object]:
    """Those of a block's kind that its layers may depend on."""
    own = spec.settings.get(spec.block_kinds[block], {})
    return {key: value for key, value in own.items() if key not in FORMER_KEYS}


def _differences(
    block: str, one: ModelSpec, other: ModelSpec
) -> Iterator[tuple[str, object, object]]:
    """What two towers say of a block, where it is not the same; kinds and sizes first."""
    facts = (
        ("its kind", one.block_kinds[block], other.block_kinds[block]),
        ("its number of layers", one.parts[block], other.parts[block]),
        *((key, getattr(one, key), getattr(other, key)) for key in KEYS if key not in FRAME_KEYS),
        *[("head_dim", one.head_size, other.head_size)] * (one.width == other.width),
        ("settings", _settings(one, block), _settings(other, block)),
    )
    yield from (fact for fact in facts if fact[1] != fact[2])
