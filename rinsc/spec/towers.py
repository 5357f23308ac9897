"""The spec of a model of several towers: one `ModelSpec` a tower, equal where they share blocks.

``model_spec("image: AB, text: AC", towers={"image": {"kind": "vit"}, "text": {"kind": "gpt"}})``
has two towers. They share A, so that A has one kind, one size and one width in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

from rinsc.errors import Problem, SpecError
from rinsc.spec.checks import at_key
from rinsc.spec.model import KEYS, CheckedValues, ModelSpec, field_values
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

    def _repr_html_(self) -> str:
        """The signature and the dimensions of each tower, for notebooks."""
        parts = [f"<p>{escape(n)}</p>{tower._repr_html_()}" for n, tower in self.towers.items()]
        return f"<div><code>{escape(self.text)}</code>{''.join(parts)}</div>"

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


def require_towers(spec: object) -> TowersSpec:
    """The spec itself; raises `SpecError` for one of a single tower and for everything else."""
    if isinstance(spec, TowersSpec):
        return spec
    message = f"this needs a spec of several towers, not {type(spec).__name__}"
    hint = "make one: rinsc.towers_spec('image: AB, text: AC', preset='tiny')"
    raise SpecError("not-towers", message, hint=hint)


def block_users(towers: Mapping[str, ModelSpec]) -> dict[str, list[str]]:
    """The towers that visit each block, blocks in order of first use."""
    return _users({name: spec.parts for name, spec in towers.items()})


def _users(blocks: Mapping[str, Iterable[str]]) -> dict[str, list[str]]:
    users: dict[str, list[str]] = {}
    for name, own in blocks.items():
        for block in own:
            users.setdefault(block, []).append(name)
    return users


def sharing_problems(
    towers: Mapping[str, ModelSpec | CheckedValues], place: str | None
) -> Iterator[Problem]:
    """What differs between the towers of a block; a key is told once for two towers.

    Of a tower with mistakes of its own, what is sound in it is compared.
    """
    told: set[tuple[str, str, str]] = set()
    forms = {name: tower.normal for name, tower in towers.items()}
    parts = {name: form.parts for name, form in forms.items() if form is not None}
    for block, (first, *others) in _users(parts).items():
        for other in others:
            one, two = _facts(towers[first], block), _facts(towers[other], block)
            for key in one:
                if key not in two or one[key] == two[key] or (key, first, other) in told:
                    continue
                if key == "head_dim" and one["width"] != two["width"]:
                    continue  # it follows from what differs already
                told |= {(key, first, other)} if key in KEYS else set()
                yield Problem(
                    "towers-differ",
                    f"block {block} is in the towers {first} and {other}, "
                    f"and {key} is {one[key]} in {first} and {two[key]} in {other}",
                    place=at_key(tower_place(place, other), key.rpartition(" ")[2]),
                    hint=f"give both towers one value, or call the block of {other} by a letter "
                    "of its own",
                )


def tower_place(place: str | None, name: str) -> str:
    """Where the dimensions of a tower stand: its table, of a file or of an argument."""
    return at_key(place, f"towers.{name}")


def _facts(tower: ModelSpec | CheckedValues, block: str) -> dict[str, object]:
    """What a tower says of a block that its layers depend on; kinds and sizes first."""
    form = tower.normal
    assert form is not None
    values: Mapping[str, Any] = (
        field_values(tower) if isinstance(tower, ModelSpec) else tower.values
    )
    kind = form.options[block].kind or values.get("kind")
    facts: dict[str, object] = {
        **({} if kind is None else {"its kind": kind}),
        "its number of layers": form.sizes[block],
        **{key: values[key] for key in KEYS if key not in FRAME_KEYS and key in values},
    }
    if all(key in values for key in ("width", "heads", "head_dim")):
        facts["head_dim"] = values["head_dim"] or values["width"] // values["heads"]
    own = values["settings"].get(kind, {})
    facts["settings"] = {key: value for key, value in own.items() if key not in FORMER_KEYS}
    return facts
