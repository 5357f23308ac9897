"""Specs from signatures, TOML files, presets and single dimensions."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from rinsc.errors import Problem, RinscError, SignatureError, SpecError, did_you_mean
from rinsc.extras import zoo_file
from rinsc.scalars import whole
from rinsc.spec.checks import MAX_SHOWN, at_key, shown, unknown_keys
from rinsc.spec.model import KEYS, REQUIRED, CheckedValues, ModelSpec, check_values, spec_keys
from rinsc.spec.presets import DEFAULT_PRESET, PRESETS
from rinsc.spec.settings import with_flat_keys
from rinsc.spec.towers import TowersSpec, require_towers, sharing_problems, tower_place
from rinsc.storage.files import parse_toml, read_regular
from rinsc.syntax import bind as bind_exponents
from rinsc.syntax import normal_form, parse
from rinsc.syntax.normal import letter_sizes, stack_of
from rinsc.syntax.parser import has_towers, parse_towers
from rinsc.syntax.towers import bind_towers, tower_signatures
from rinsc.syntax.tree import Signature, Towers, mentions
from rinsc.syntax.unexpected import refuse_doubtful

MAX_FILE_BYTES = 1 << 16
ZOO_TABLES = ("source", "expect")  # of a file in the zoo: where a model is from, what is claimed


def model_spec(
    model: str | Path | Signature | Towers,
    *,
    preset: str | None = None,
    bind: Mapping[str, int] | None = None,
    strict: bool = False,
    towers: Mapping[str, Mapping[str, object]] | None = None,
    **dimensions: int | float | bool | str | Mapping[str, Mapping[str, Any]] | None,
) -> ModelSpec:
    """The spec of a signature, of a TOML file, or of an entry of the zoo by its name, as in
    ``model_spec("huginn")``; dimensions given here win over file and preset. A signature without
    any has those of the preset "tiny", as on the command line.

    A string that ends in ``.toml`` names a file; its tables ``[source]`` and ``[expect]`` are the
    zoo's, and are left alone. A dimension of None counts as not given. A setting of the kind is
    given as any dimension, ``patch_width=48``, or in ``settings={"vit": {…}}``. ``strict``
    refuses layers that do not divide evenly over the blocks, instead of giving the earlier ones
    more, and blocks named like powers (``A3`` where there is no other A). Raises `SignatureError`
    for a signature alone that is wrong, else `SpecError` with every mistake.

    A text with named towers, as ``"image: A^2B, text: C^2D"``, gives a `TowersSpec`. Dimensions
    hold for every tower; ``towers`` has those of one, by its name. Checkers of types do not see
    what a text says: `towers_spec` does the same for towers alone.

    >>> spec = model_spec("(A^3)B", preset="tiny", layers=4)
    >>> spec.width, spec.parts
    (64, {'A': 2, 'B': 2})
    """
    given = {key: value for key, value in dimensions.items() if value is not None}
    if isinstance(model, str):
        model = Path(model) if model.endswith(".toml") else zoo_file(model) or model
    place: str | None = None
    values: dict[str, object] = {"signature": model, "preset": preset}
    if isinstance(model, Path):
        place = str(model)
        values = {k: value for k, value in read_toml(model).items() if k not in ZOO_TABLES}
        values |= {"preset": preset} if preset is not None else {}
    tables = _tables(values.get("towers"), given, towers, place)
    sized = {*given, *(key for table in (tables or {}).values() for key in table)}
    if place is None and preset is None and not sized & {*REQUIRED, "preset"}:
        values["preset"] = DEFAULT_PRESET
    values = _merged({key: value for key, value in values.items() if key != "towers"}, given)
    if tables is not None or _names_towers(values.get("signature")):
        return cast(ModelSpec, _assemble_towers(values, tables or {}, bind or {}, place, strict))
    return _assemble(values, bind or {}, place, strict)


def towers_spec(
    model: str | Path | Towers,
    *,
    preset: str | None = None,
    bind: Mapping[str, int] | None = None,
    strict: bool = False,
    towers: Mapping[str, Mapping[str, object]] | None = None,
    **dimensions: int | float | bool | str | Mapping[str, Mapping[str, Any]] | None,
) -> TowersSpec:
    """`model_spec` of towers, in a text or in a file; raises `SpecError` for one signature.

    >>> spec = towers_spec("image: A^2B, text: AC", preset="tiny")
    >>> list(spec.towers)
    ['image', 'text']
    """
    given = {"preset": preset, "bind": bind, "strict": strict, **dimensions}
    spec: object = model_spec(model, towers=towers or {}, **given)  # type: ignore[arg-type]
    assert isinstance(spec, TowersSpec)
    return spec


def _merged(values: Mapping[str, object], own: Mapping[str, object]) -> dict[str, object]:
    """What is given later wins, key by key in the settings of a kind too."""
    tables, more = values.get("settings"), own.get("settings")
    merged = {**values, **own}
    if isinstance(tables, Mapping) and isinstance(more, Mapping):
        kinds = {**tables, **more}
        merged["settings"] = {k: {**tables.get(k, {}), **more.get(k, {})} for k in kinds}
    return merged


def _names_towers(signature: object) -> bool:
    """Whether it names towers; a file and an option are read as text."""
    return isinstance(signature, Towers) or (isinstance(signature, str) and has_towers(signature))


def _tables(
    of_file: object,
    given: Mapping[str, object],
    towers: Mapping[str, Mapping[str, object]] | None,
    place: str | None,
) -> dict[str, dict[str, object]] | None:
    """The dimensions of each tower: those of the file, then ``given`` ones, then ``towers``.

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
            raise SpecError("bad-type", message, place=at_key(place, "towers"), hint=hint)
    assert of_file is None or isinstance(of_file, Mapping)
    merged: dict[str, dict[str, object]] = {}
    for name, table in (of_file or {}).items():
        merged[name] = {key: value for key, value in table.items() if key not in given}
    for name, table in (towers or {}).items():
        merged[name] = merged.get(name, {}) | dict(table)
    return merged


def _assemble_towers(
    values: Mapping[str, object],
    tables: Mapping[str, Mapping[str, object]],
    binding: Mapping[str, int],
    place: str | None,
    strict: bool,
) -> TowersSpec:
    """Values for all towers, and a table for each, to one spec; every mistake is collected."""
    problems: list[Problem] = []
    tree = values.get("signature")
    bound = {**_binding(values.get("bind", {}), problems, place), **binding}
    where = None if place is None else at_key(place, "signature")
    if not _names_towers(tree):
        message = "there are tables of towers, and the signature names no towers"
        hint = "name them, as in image: A^2B, text: CD, or take the tables away"
        raise SpecError("not-towers", message, place=at_key(place, "towers"), hint=hint)
    try:
        towers = parse_towers(tree) if isinstance(tree, str) else tree
        assert isinstance(towers, Towers)
        towers = bind_towers(towers, bound)
    except RinscError as error:
        placed = [replace(problem, place=where) for problem in error.problems]
        raise (SignatureError if place is None else SpecError).of(*placed) from None
    shared = {k: value for k, value in values.items() if k not in ("signature", "bind")}
    trees = tower_signatures(towers)
    problems += unknown_keys(tables, trees, "this model", lambda key: tower_place(place, key))
    checked: dict[str, CheckedValues] = {}
    for name, signature in trees.items():
        own = dict(tables.get(name, {}))
        problems += unknown_keys(
            own.keys() & {"signature", "bind", "towers"},
            [*KEYS, "preset"][1:],
            "a tower",
            partial(at_key, tower_place(place, name)),
        )
        own = {key: value for key, value in own.items() if key not in ("signature", "bind")}
        # The preset of a tower is more its own than what all towers have.
        preset = PRESETS.get(str(own.get("preset")), {})
        merged = {**_merged({**shared, **preset}, own), "signature": signature}
        checked[name] = _checked(merged, {}, tower_place(place, name), strict)
        problems += [_placed(p, place, name, own.keys()) for p in checked[name].problems]
    known = {name: values for name, values in checked.items() if values.normal is not None}
    problems += sharing_problems(known, place)
    if problems:
        raise SpecError.of(*dict.fromkeys(problems))
    return TowersSpec(towers, tuple(values.spec() for values in checked.values()))


def _placed(problem: Problem, place: str | None, name: str, own: Collection[str]) -> Problem:
    """A mistake in a key that all towers have stands where the key does, and is told once."""
    key = (problem.place or "").removeprefix(f"{tower_place(place, name)}: ")
    if key in own:
        return problem
    if key == "signature" and place is None:
        return replace(problem, place=None)
    return replace(problem, place=at_key(place, key))


def spec_from_values(values: object, place: str | None = None) -> ModelSpec:
    """The spec of one tower that a file holds as keys and values, the signature as text.

    No text in it is taken for the name of a file or of an entry of the zoo. Raises `SpecError`.
    """
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        message = f"a spec is a table of keys and values, not {type(values).__name__}"
        hint = "for example: {'signature': '(A^3)B', 'preset': 'tiny'}"
        raise SpecError("bad-type", message, place=place, hint=hint)
    try:
        return _assemble(values, {}, place, strict=False)
    except SignatureError as error:
        raise SpecError.of(*error.problems) from None


def towers_from_values(values: Mapping[str, object], place: str | None = None) -> TowersSpec:
    """`spec_from_values` of several towers."""
    try:
        tables = _tables(values.get("towers"), {}, None, place)
        shared = {key: value for key, value in values.items() if key != "towers"}
        return _assemble_towers(shared, tables or {}, {}, place, strict=False)
    except SignatureError as error:
        raise SpecError.of(*error.problems) from None


def with_signature(
    spec: ModelSpec, signature: str | Signature, *, strict: bool = False
) -> ModelSpec:
    """Another signature at the dimensions of ``spec``; sizes on all its letters give the layers.

    ``strict`` refuses layers that do not divide evenly over the blocks, and blocks named like
    powers, with a `SignatureError`, as a text that is no signature is refused; raises `SpecError`
    for what makes no spec.
    """
    tree = parse(signature) if isinstance(signature, str) else signature
    sizes = letter_sizes(tree).values()
    layers = spec.layers if None in sizes else stack_of(tree, each=0)
    if strict:
        refuse_doubtful(tree)
        normal_form(tree, layers, strict=True)
    return replace(spec, signature=tree, layers=layers)


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


def spec_to_toml(spec: ModelSpec | TowersSpec) -> str:
    """The spec as a TOML file that `model_spec` reads back to an equal spec."""
    if isinstance(spec, ModelSpec):
        return _toml_lines(spec_keys(spec))
    own = {
        name: {key: value for key, value in spec_keys(tower).items() if key != "signature"}
        for name, tower in spec.towers.items()
    }
    first = next(iter(own.values()))
    alike = [
        key
        for key in first
        if all(key in table and table[key] == first[key] for table in own.values())
    ]
    text = _toml_lines({"signature": spec.text, **{key: first[key] for key in alike}})
    for name, table in own.items():
        differing = {key: value for key, value in table.items() if key not in alike}
        text += _toml_lines(differing, f"towers.{name}")
    return text


def _toml_lines(values: Mapping[str, Any], table: str = "") -> str:
    """Keys and values, then the tables below them."""
    keys = {key: value for key, value in values.items() if not isinstance(value, Mapping)}
    lines = [f"{key} = {_toml(value)}" for key, value in keys.items()]
    text = "\n".join([*["", f"[{table}]"] * bool(table), *lines]) + "\n" if lines else ""
    for key in values.keys() - keys.keys():
        for name, inner in values[key].items():
            text += _toml_lines(inner, f"{table}.{key}.{name}".lstrip("."))
    return text


def is_of(text: str, spec: ModelSpec) -> bool:
    """Whether a TOML file, of whatever version, says the same as the spec."""
    if text == spec_to_toml(spec):
        return True
    try:
        return spec_to_toml(spec_from_values(parse_toml(text))) == spec_to_toml(spec)
    except (ValueError, RinscError):
        return False


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(value) if isinstance(value, str) else repr(value)


def read_toml(path: Path) -> dict[str, object]:
    """The keys of a TOML file; raises `SpecError` for a file that is none, or cannot be read."""
    hint = "give the path of a TOML file, or a signature such as '(A^3)B'"
    try:
        content = read_regular(path, MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = Problem("spec-not-readable", f"cannot read the spec: {reason}", hint=hint)
        raise SpecError.of(replace(problem, place=str(path))) from None
    if len(content) > MAX_FILE_BYTES:
        message = f"a spec has at most {MAX_FILE_BYTES} bytes"
        raise SpecError("spec-not-toml", message, place=str(path), hint=hint)
    try:
        return parse_toml(content.decode("utf-8"))
    except ValueError as error:
        message = f"not a TOML file: {error!s:.200}"
        raise SpecError("spec-not-toml", message, place=str(path), hint=hint) from None


def _assemble(
    values: Mapping[str, object], binding: Mapping[str, int], place: str | None, strict: bool
) -> ModelSpec:
    """Preset, binding and given values to one spec; every mistake is collected first."""
    checked = _checked(values, binding, place, strict)
    if checked.problems:
        only_text = all(problem.span is not None for problem in checked.problems)
        raise (SignatureError if only_text and place is None else SpecError).of(*checked.problems)
    return checked.spec()


def _checked(
    values: Mapping[str, object], binding: Mapping[str, int], place: str | None, strict: bool
) -> CheckedValues:
    problems: list[Problem] = []
    own = {key: value for key, value in values.items() if key not in ("preset", "bind")}
    base = _preset(values.get("preset"), problems, place)
    bound = {**_binding(values.get("bind", {}), problems, place), **binding}
    explained = set(REQUIRED) if base is None else set()
    merged: dict[str, object] = {**(base or {}), **own}
    if own.get("signature") is not None:
        explained.add("signature")
        signature = _signature(own["signature"], bound, problems, place)
        if signature is None:
            del merged["signature"]
            # Whether its sizes give the layers is not known; with nothing but a text, it may have
            # been meant as another thing than a signature.
            only_text = place is None and not (own.keys() - {"signature"}) and not base
            explained |= set(REQUIRED) if only_text else {"layers"}
        else:
            merged |= {"signature": signature, **_sizes_as_layers(signature, own)}
    if "heads" in merged:
        merged.setdefault("kv_heads", merged["heads"])
    else:
        explained.add("kv_heads")  # are as many as the heads, once those are given
    merged, flat = with_flat_keys(merged, _kinds(merged), KEYS)
    checked = check_values(merged, place, missing_and_known=explained, strict=strict, flat=flat)
    return replace(checked, problems=[*problems, *checked.problems])


def _kinds(values: Mapping[str, object]) -> list[str]:
    """The kinds that a model of these values has."""
    signature, own = values.get("signature"), values.get("kind", ModelSpec.kind)
    options = [
        str(option.value)
        for ref in (mentions(signature.body) if isinstance(signature, Signature) else ())
        for option in ref.options
        if option.name == "kind"
    ]
    return list(dict.fromkeys([own, *options] if isinstance(own, str) else options))


def _preset(
    name: object, problems: list[Problem], place: str | None
) -> Mapping[str, object] | None:
    """The dimensions of a preset, none without a name; None for a name that is wrong."""
    if name is None:
        return {}
    if isinstance(name, str) and name in PRESETS:
        return PRESETS[name]
    hint = did_you_mean(str(name)[:MAX_SHOWN], PRESETS)
    where = at_key(place, "preset")
    problems.append(
        Problem("unknown-preset", f"{shown(name)} is not a preset", place=where, hint=hint)
    )
    return None


def _binding(table: object, problems: list[Problem], place: str | None) -> Mapping[str, int]:
    """The exponents that a file binds."""
    if isinstance(table, dict) and all(whole(value) is not None for value in table.values()):
        return table
    message = "'bind' must be a table of whole numbers"
    hint = "for example: bind = { r = 3 }"
    problems.append(Problem("bad-type", message, place=at_key(place, "bind"), hint=hint))
    return {}


def _signature(
    value: object, binding: Mapping[str, int], problems: list[Problem], place: str | None
) -> Signature | None:
    """Parse and bind; a mistake is added to ``problems`` with the file named."""
    if value is None:
        return None
    if not isinstance(value, str | Signature):
        message = f"'signature' must be text, not {type(value).__name__}"
        problems.append(
            Problem(
                "bad-type", message, place=at_key(place, "signature"), hint="write it in quotes"
            )
        )
        return None
    try:
        tree = bind_exponents(parse(value) if isinstance(value, str) else value, binding)
    except RinscError as error:
        where = None if place is None else at_key(place, "signature")
        problems += [replace(problem, place=where) for problem in error.problems]
        return None
    return tree


def _sizes_as_layers(signature: Signature, own: Mapping[str, object]) -> dict[str, object]:
    """Where every letter has a size and no layer count is given, it follows from the sizes."""
    if "layers" in own:
        return {}
    try:
        sizes = letter_sizes(signature).values()
    except RinscError:
        return {}
    return {} if None in sizes else {"layers": sum(size for size in sizes if size is not None)}
