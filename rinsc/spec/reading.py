"""Specs from signatures, TOML files, presets and single dimensions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from rinsc.errors import Problem, RinscError, SignatureError, SpecError
from rinsc.extras import zoo_file
from rinsc.spec.model import REQUIRED, ModelSpec, assemble, merged_values, spec_keys
from rinsc.spec.presets import DEFAULT_PRESET
from rinsc.spec.towers import TowersSpec, assemble_towers, names_towers, tables_of
from rinsc.storage.files import parse_toml, read_regular
from rinsc.syntax.tree import Signature, Towers

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
    keywords = {key: value for key, value in dimensions.items() if value is not None}
    if isinstance(model, str):
        model = Path(model) if model.endswith(".toml") else zoo_file(model) or model
    location: str | None = None
    values: dict[str, object] = {"signature": model, "preset": preset}
    if isinstance(model, Path):
        location = str(model)
        values = {k: value for k, value in read_toml(model).items() if k not in ZOO_TABLES}
        values |= {"preset": preset} if preset is not None else {}
    tables = tables_of(values.get("towers"), keywords, towers, location)
    sized = {*keywords, *(key for table in (tables or {}).values() for key in table)}
    if location is None and preset is None and not sized & {*REQUIRED, "preset"}:
        values["preset"] = DEFAULT_PRESET
    values = merged_values(
        {key: value for key, value in values.items() if key != "towers"}, keywords
    )
    if tables is not None or names_towers(values.get("signature")):
        return cast(ModelSpec, assemble_towers(values, tables or {}, bind or {}, location, strict))
    return assemble(values, bind or {}, location, strict)


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
    values = {"preset": preset, "bind": bind, "strict": strict, **dimensions}
    spec: object = model_spec(model, towers=towers or {}, **values)  # type: ignore[arg-type]
    assert isinstance(spec, TowersSpec)
    return spec


def spec_from_values(values: object, location: str | None = None) -> ModelSpec:
    """The spec of one tower that a file holds as keys and values, the signature as text.

    No text in it is taken for the name of a file or of an entry of the zoo. Raises `SpecError`.
    """
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        message = f"a spec is a table of keys and values, not {type(values).__name__}"
        hint = "for example: {'signature': '(A^3)B', 'preset': 'tiny'}"
        raise SpecError("bad-type", message, place=location, hint=hint)
    try:
        return assemble(values, {}, location, strict=False)
    except SignatureError as error:
        raise SpecError.of(*error.problems) from None


def towers_from_values(values: Mapping[str, object], location: str | None = None) -> TowersSpec:
    """`spec_from_values` of several towers."""
    try:
        tables = tables_of(values.get("towers"), {}, None, location)
        shared = {key: value for key, value in values.items() if key != "towers"}
        return assemble_towers(shared, tables or {}, {}, location, strict=False)
    except SignatureError as error:
        raise SpecError.of(*error.problems) from None


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


def is_of(text: str, spec: ModelSpec | TowersSpec) -> bool:
    """Whether a TOML file, of whatever version, says the same as the spec."""
    if text == spec_to_toml(spec):
        return True
    try:
        read = towers_from_values if isinstance(spec, TowersSpec) else spec_from_values
        return spec_to_toml(read(parse_toml(text))) == spec_to_toml(spec)
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
