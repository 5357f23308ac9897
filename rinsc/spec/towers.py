"""The spec of a model of several towers: one `ModelSpec` a tower, equal where they share blocks.

``model_spec("image: AB, text: AC", towers={"image": {"kind": "vit"}, "text": {"kind": "gpt"}})``
has two towers. They share A, so that A has one kind, one size and one width in both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, partial
from html import escape
from typing import Any, TypeAlias

from rinsc.errors import Problem, RinscError, SignatureError, SpecError
from rinsc.spec.checks import at_key, unknown_keys
from rinsc.spec.kinds import layers_kind
from rinsc.spec.model import (
    KEYS,
    CheckedValues,
    ModelSpec,
    exponents_of,
    field_values,
    merged_values,
    read_values,
    with_signature,
)
from rinsc.spec.pairing import Pairing, pairing_of, pairing_problems
from rinsc.spec.presets import PRESETS, TOWER_KINDS, preset_of_kind
from rinsc.spec.settings import FORMER_KEYS, implied_values
from rinsc.syntax.parser import has_towers, parse_towers
from rinsc.syntax.towers import bind_towers, tower_signatures
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
        problems = [*sharing_problems(self.towers, None), *pairing_problems(self.towers, None)]
        if problems:
            raise SpecError.of(*problems)

    def __repr__(self) -> str:
        return f"TowersSpec({self.text!r}, {dict(self.towers)!r})"

    def _repr_html_(self) -> str:
        """The signature and the dimensions of each tower, for notebooks."""
        sections = [f"<p>{escape(n)}</p>{tower._repr_html_()}" for n, tower in self.towers.items()]
        return f"<div><code>{escape(self.text)}</code>{''.join(sections)}</div>"

    @property
    def text(self) -> str:
        """The towers as text, structure kept, exponents bound."""
        return to_text(self.signature)

    @cached_property
    def towers(self) -> Mapping[str, ModelSpec]:
        """The spec of each tower by name; its signature says all that the text says of a letter."""
        return dict(zip(self.signature.signatures, self.specs, strict=True))

    @cached_property
    def pairing(self) -> Pairing | None:
        """The towers of pictures and of texts whose embeddings are compared, where there are."""
        return pairing_of(self.towers)

    @property
    def context(self) -> int:
        """The longest sequence of any tower."""
        return max(tower.context for tower in self.specs)

    @cached_property
    def shared_blocks(self) -> tuple[str, ...]:
        """The blocks that several towers visit, in order of first use."""
        users = block_users(self.towers)
        return tuple(block for block, names in users.items() if len(names) > 1)


AnySpec: TypeAlias = ModelSpec | TowersSpec


def like(spec: AnySpec, signature: str) -> AnySpec:
    """Another signature at the dimensions of ``spec``: `with_signature`, or `with_towers`."""
    if isinstance(spec, TowersSpec):
        return with_towers(spec, signature)
    return with_signature(spec, signature)


def require_towers(spec: object) -> TowersSpec:
    """The spec itself; raises `SpecError` for one of a single tower and for everything else."""
    if isinstance(spec, TowersSpec):
        return spec
    message = f"this needs a spec of several towers, not {type(spec).__name__}"
    hint = "make one: rinsc.towers_spec('image: AB, text: AC', preset='tiny')"
    raise SpecError("not-towers", message, hint=hint)


def paired_towers(spec: object) -> tuple[ModelSpec, ModelSpec]:
    """The tower of pictures and that of texts; raises `SpecError` for a model without both."""
    pair = spec.pairing if isinstance(spec, TowersSpec) else None
    if pair is None:
        message = f"'{getattr(spec, 'text', spec)!s:.100}' does not compare pictures with texts: "
        message += "that takes one tower of the kind siglip_image and one of siglip_text"
        hint = "write 'image: AB, text: CD' with the preset siglip-tiny"
        raise SpecError("no-pairs", message, place="kind", hint=hint)
    assert isinstance(spec, TowersSpec)
    return spec.towers[pair.image], spec.towers[pair.text]


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
    towers: Mapping[str, ModelSpec | CheckedValues], location: str | None
) -> Iterator[Problem]:
    """What differs between the towers of a block; a key is told once for two towers.

    Of a tower with mistakes of its own, what is sound in it is compared.
    """
    reported: set[tuple[str, str, str]] = set()
    forms = {name: tower.normal for name, tower in towers.items()}
    parts = {name: form.parts for name, form in forms.items() if form is not None}
    for block, (first, *others) in _users(parts).items():
        for other in others:
            one, two = _facts(towers[first], block), _facts(towers[other], block)
            for key in one:
                if key not in two or one[key] == two[key] or (key, first, other) in reported:
                    continue
                if key == "head_dim" and one["width"] != two["width"]:
                    continue  # it follows from what differs already
                reported |= {(key, first, other)} if key in KEYS else set()
                yield Problem(
                    "towers-differ",
                    f"block {block} is in the towers {first} and {other}, "
                    f"and {key} is {one[key]} in {first} and {two[key]} in {other}",
                    place=at_key(tower_place(location, other), key.rpartition(" ")[2]),
                    hint=f"give both towers one value, or call the block of {other} by a letter "
                    "of its own",
                )


def tower_place(location: str | None, name: str) -> str:
    """Where the dimensions of a tower stand: its table, of a file or of an argument."""
    return at_key(location, f"towers.{name}")


def _facts(tower: ModelSpec | CheckedValues, block: str) -> dict[str, object]:
    """What a tower says of a block that its layers depend on; kinds and sizes first."""
    form = tower.normal
    assert form is not None
    values: Mapping[str, Any] = (
        field_values(tower) if isinstance(tower, ModelSpec) else tower.values
    )
    common = values.get("kind")
    kind = form.options[block].kind or (layers_kind(common) if common else None)
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


def names_towers(signature: object) -> bool:
    """Whether it names towers; a file and an option are read as text."""
    return isinstance(signature, Towers) or (isinstance(signature, str) and has_towers(signature))


def tables_of(
    of_file: object,
    keywords: Mapping[str, object],
    towers: Mapping[str, Mapping[str, object]] | None,
    location: str | None,
) -> dict[str, dict[str, object]] | None:
    """The dimensions of each tower: those of the file, then ``keywords`` ones, then ``towers``.

    None where nobody speaks of towers.
    """
    if of_file is None and towers is None:
        return None
    for tables in (of_file, towers):
        is_table = isinstance(tables, Mapping | None) and all(
            isinstance(name, str) and isinstance(table, Mapping)
            for name, table in (tables or {}).items()
        )
        if not is_table:
            message = "'towers' must be a table of dimensions for each tower"
            hint = 'for example: [towers.image] and below it kind = "vit"'
            raise SpecError("bad-type", message, place=at_key(location, "towers"), hint=hint)
    assert of_file is None or isinstance(of_file, Mapping)
    merged: dict[str, dict[str, object]] = {}
    for name, table in (of_file or {}).items():
        merged[name] = {key: value for key, value in table.items() if key not in keywords}
    for name, table in (towers or {}).items():
        merged[name] = merged.get(name, {}) | dict(table)
    return merged


def assemble_towers(
    values: Mapping[str, object],
    tables: Mapping[str, Mapping[str, object]],
    binding: Mapping[str, int],
    location: str | None,
    strict: bool,
) -> TowersSpec:
    """Values for all towers, and a table for each, to one spec; every mistake is collected."""
    problems: list[Problem] = []
    tree = values.get("signature")
    bound = {**exponents_of(values.get("bind", {}), problems, location), **binding}
    where = None if location is None else at_key(location, "signature")
    if not names_towers(tree):
        message = "towers are wanted, and the signature names none"
        hint = (
            "name them, as in image: A^2B, text: CD; without tables of towers model_spec reads it"
        )
        raise SpecError("not-towers", message, place=at_key(location, "towers"), hint=hint)
    try:
        towers = parse_towers(tree) if isinstance(tree, str) else tree
        assert isinstance(towers, Towers)
        towers = bind_towers(towers, bound)
    except RinscError as error:
        placed = [replace(problem, place=where) for problem in error.problems]
        raise (SignatureError if location is None else SpecError).of(*placed) from None
    shared = {k: value for k, value in values.items() if k not in ("signature", "bind")}
    trees = tower_signatures(towers)
    problems += unknown_keys(tables, trees, "this model", lambda key: tower_place(location, key))
    checked: dict[str, CheckedValues] = {}
    for name, signature in trees.items():
        own = dict(tables.get(name, {}))
        problems += unknown_keys(
            own.keys() & {"signature", "bind", "towers"},
            [*KEYS, "preset"][1:],
            "a tower",
            partial(at_key, tower_place(location, name)),
        )
        own = {key: value for key, value in own.items() if key not in ("signature", "bind")}
        common, own = _of_tower(name, shared, own)
        # The preset of a tower is more its own than what all towers have.
        preset = PRESETS.get(str(own.get("preset")), {})
        merged = {**merged_values({**common, **preset}, own), "signature": signature}
        checked[name] = read_values(merged, {}, tower_place(location, name), strict)
        problems += [_placed(p, location, name, own.keys()) for p in checked[name].problems]
    known = {name: values for name, values in checked.items() if values.normal is not None}
    problems += sharing_problems(known, location)
    if problems:
        raise SpecError.of(*dict.fromkeys(problems))
    specs = {name: values.spec() for name, values in checked.items()}
    problems = list(pairing_problems(specs, location))
    if problems:
        raise SpecError.of(*problems)
    return TowersSpec(towers, tuple(specs.values()))


def _of_tower(
    name: str, shared: Mapping[str, object], own: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """What all towers have and what this one has, with its share of a preset of towers.

    A tower takes the share of its kind, else that of its name. Its own preset wins over what all
    have, as any does.
    """
    common, values = dict(shared), dict(own)
    kind = own.get("kind", shared.get("kind", TOWER_KINDS.get(name)))
    for table in (common, values):
        share = preset_of_kind(table.get("preset"), kind)
        if share is not None:
            del table["preset"]
            table |= merged_values(share, table)
    implied = implied_values(merged_values(common, values))
    if "context" in implied and "context" not in own:
        common.pop("context", None)  # the one that all have is of tokens
    return common, values


def _placed(problem: Problem, location: str | None, name: str, own: Collection[str]) -> Problem:
    """A mistake in a key that all towers have stands where the key does, and is told once."""
    key = (problem.place or "").removeprefix(f"{tower_place(location, name)}: ")
    if key in own:
        return problem
    if key == "signature" and location is None:
        return replace(problem, place=None)
    return replace(problem, place=at_key(location, key))


def with_towers(spec: TowersSpec, towers: str | Towers, *, strict: bool = False) -> TowersSpec:
    """`with_signature` of towers: each takes the dimensions of the tower of its name.

    Raises `SpecError` for a tower that ``spec`` does not have.
    """
    tree = parse_towers(towers) if isinstance(towers, str) else towers
    known, specs = require_towers(spec).towers, []
    for name, signature in tower_signatures(tree).items():
        if name not in known:
            message = f"there are no dimensions for the tower {name}"
            hint = f"name towers as in {spec.text:.100}: {', '.join(known)}"
            raise SpecError("unknown-tower", message, hint=hint)
        specs.append(with_signature(known[name], signature, strict=strict))
    return TowersSpec(tree, tuple(specs))
