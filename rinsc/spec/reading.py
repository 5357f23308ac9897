"""Specs from signatures, TOML files, presets and single dimensions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from rinsc.errors import Problem, RinscError, SignatureError, SpecError, did_you_mean
from rinsc.resources import zoo_file
from rinsc.scalars import whole
from rinsc.spec.checks import MAX_SHOWN, at_key, shown
from rinsc.spec.model import REQUIRED, ModelSpec, field_values, spec_problems
from rinsc.spec.presets import DEFAULT_PRESET, PRESETS
from rinsc.storage.files import parse_toml, read_regular
from rinsc.syntax import bind as bind_exponents
from rinsc.syntax import parse, part_sizes, to_text
from rinsc.syntax.notes import refuse_doubtful
from rinsc.syntax.sizes import letter_sizes, stack_of
from rinsc.syntax.tree import Signature

MAX_FILE_BYTES = 1 << 16
ZOO_TABLES = ("source", "expect")  # of a file in the zoo: where a model is from, what is claimed


def model_spec(
    model: str | Path | Signature,
    *,
    preset: str | None = None,
    bind: Mapping[str, int] | None = None,
    strict: bool = False,
    **dimensions: int | float | bool | str | None,
) -> ModelSpec:
    """The spec of a signature, of a TOML file, or of an entry of the zoo by its name, as in
    ``model_spec("huginn")``; dimensions given here win over file and preset. A signature without
    any has those of the preset "tiny", as on the command line.

    A string that ends in ``.toml`` names a file; its tables ``[source]`` and ``[expect]`` are the
    zoo's, and are left alone. A dimension of None counts as not given. ``strict``
    refuses layers that do not divide evenly over the blocks, instead of giving the earlier ones
    more, and blocks named like powers (``A3`` where there is no other A). Raises `SignatureError`
    for a signature alone that is wrong, else `SpecError` with every mistake.
    """
    given = {key: value for key, value in dimensions.items() if value is not None}
    if isinstance(model, str):
        model = Path(model) if model.endswith(".toml") else zoo_file(model) or model
    if isinstance(model, Path):
        path = model
        values = {k: value for k, value in read_toml(path).items() if k not in ZOO_TABLES}
        chosen = {"preset": preset} if preset is not None else {}
        return _assemble({**values, **chosen, **given}, bind or {}, str(path), strict)
    if preset is None and not given.keys() & set(REQUIRED):
        preset = DEFAULT_PRESET
    return _assemble({"signature": model, "preset": preset, **given}, bind or {}, None, strict)


def spec_from_values(values: object, place: str | None = None) -> ModelSpec:
    """The spec that a file holds as keys and values, the signature as text.

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
        part_sizes(tree, layers, strict=True)
    return dataclasses.replace(spec, signature=tree, layers=layers)


def spec_to_toml(spec: ModelSpec) -> str:
    """The spec as a TOML file that `model_spec` reads back to an equal spec."""
    lines = []
    for key, value in field_values(spec).items():
        if isinstance(value, Signature):
            text = f'"{to_text(value)}"'
        elif isinstance(value, bool):
            text = str(value).lower()
        elif isinstance(value, str):
            text = f'"{value}"'
        else:
            text = repr(value)
        lines.append(f"{key} = {text}")
    return "\n".join(lines) + "\n"


def read_toml(path: Path) -> dict[str, object]:
    """The keys of a TOML file; raises `SpecError` for a file that is none, or cannot be read."""
    hint = "give the path of a TOML file, or a signature such as '(A^3)B'"
    try:
        content = read_regular(path, MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = Problem("spec-not-readable", f"cannot read the spec: {reason}", hint=hint)
        raise SpecError.of(dataclasses.replace(problem, place=str(path))) from None
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
    problems += spec_problems(merged, place, missing_and_known=explained, strict=strict)
    if problems:
        only_text = all(problem.span is not None for problem in problems) and place is None
        raise SignatureError.of(*problems) if only_text else SpecError.of(*problems)
    return ModelSpec(**merged)  # type: ignore[arg-type]


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
        problems += [dataclasses.replace(problem, place=where) for problem in error.problems]
        return None
    return tree


def _sizes_as_layers(signature: Signature, own: Mapping[str, object]) -> dict[str, object]:
    """Where every letter has a size and no layer count is given, it follows from the sizes."""
    if "layers" in own:
        return {}
    try:
        return {"layers": sum(part_sizes(signature, None).values())}
    except RinscError:
        return {}
