"""The model spec: everything about a variant that its signature cannot say, checked as a whole."""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, get_type_hints

from rinsc.errors import Problem, RinscError, SpecError, did_you_mean
from rinsc.kinds import KINDS
from rinsc.presets import PRESETS
from rinsc.syntax import bind as bind_exponents
from rinsc.syntax import parse, part_sizes, require_lowered, to_text
from rinsc.syntax.tree import Signature

MAX_DIMENSION = 1 << 24  # no published model comes near; keeps a typing slip from allocating


@dataclass(frozen=True)
class ModelSpec:
    """A variant: a signature with every exponent bound, and its dimensions.

    ``layers`` counts the physical layers of the whole stack; ``mlp_width`` is the inner width of
    the feed-forward part; ``context`` is the longest sequence in tokens. Raises `SpecError` with
    every mistake at once.
    """

    signature: Signature
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp_width: int
    vocab_size: int
    context: int
    kind: str = "llama"
    tied_embedding: bool = False
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0

    def __post_init__(self) -> None:
        problems = _problems(_field_values(self), place=None)
        if problems:
            raise SpecError(*problems)

    @property
    def text(self) -> str:
        """The signature as text, structure kept, exponents bound."""
        return to_text(self.signature)

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @cached_property
    def parts(self) -> Mapping[str, int]:
        """Layers of each block, in order of first use."""
        return part_sizes(self.signature, self.layers)


_TYPES: Mapping[str, Any] = get_type_hints(ModelSpec)
KEYS = tuple(field.name for field in dataclasses.fields(ModelSpec))
_REQUIRED = tuple(
    field.name for field in dataclasses.fields(ModelSpec) if field.default is dataclasses.MISSING
)


def model_spec(
    model: str | Path | Signature,
    *,
    preset: str | None = None,
    bind: Mapping[str, int] | None = None,
    **dimensions: int | float | bool | str | None,
) -> ModelSpec:
    """The spec of a signature or of a TOML file; dimensions given here win over file and preset.

    A string that ends in ``.toml`` names a file. A dimension of None counts as not given. Raises
    `SignatureError` for a signature alone that is wrong, else `SpecError` with every mistake.
    """
    given = {key: value for key, value in dimensions.items() if value is not None}
    if isinstance(model, Path) or (isinstance(model, str) and model.endswith(".toml")):
        path = Path(model)
        values = _read_toml(path)
        chosen = {"preset": preset} if preset is not None else {}
        binding = {**_table(values, "bind", path), **(bind or {})}
        return _assemble({**values, **chosen, **given}, binding, place=str(path))
    return _assemble({"signature": model, "preset": preset, **given}, dict(bind or {}), place=None)


def spec_to_toml(spec: ModelSpec) -> str:
    """The spec as a TOML file that `model_spec` reads back to an equal spec."""
    lines = []
    for key, value in _field_values(spec).items():
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


def _field_values(spec: ModelSpec) -> dict[str, object]:
    return {key: getattr(spec, key) for key in KEYS}


def _read_toml(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SpecError(
            Problem(
                "spec-not-readable",
                f"cannot read the spec: {error.strerror}",
                place=str(path),
                hint="give the path of a TOML file, or a signature such as '(A^3)B'",
            )
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecError(
            Problem("spec-not-toml", f"not a TOML file: {error}", place=str(path))
        ) from None


def _table(values: dict[str, object], key: str, path: Path) -> dict[str, int]:
    """Take the table ``key`` of whole numbers out of ``values``."""
    table = values.pop(key, {})
    whole = isinstance(table, dict) and all(type(value) is int for value in table.values())
    if not whole or not isinstance(table, dict):
        raise SpecError(
            Problem(
                "bad-type",
                f"'{key}' must be a table of whole numbers",
                place=f"{path}: {key}",
                hint="for example: bind = { r = 3 }",
            )
        )
    return table


def _assemble(values: dict[str, object], binding: dict[str, int], place: str | None) -> ModelSpec:
    """Preset, binding and given values to one spec; every mistake is collected first."""
    problems: list[Problem] = []
    values = dict(values)
    preset = values.pop("preset", None)
    base: dict[str, object] = {}
    if preset is not None:
        if isinstance(preset, str) and preset in PRESETS:
            base = dict(PRESETS[preset])
        else:
            hint = did_you_mean(str(preset), PRESETS)
            message = f"'{preset}' is not a preset"
            problems.append(
                Problem("unknown-preset", message, place=_at(place, "preset"), hint=hint)
            )
    signature = _signature(values.get("signature"), binding, problems, place)
    if signature is None:
        values.pop("signature", None)
    else:
        values["signature"] = signature
        _sizes_win_over_preset(signature, values, base)
    merged: dict[str, object] = {**base, **values}
    if "heads" in merged:
        merged.setdefault("kv_heads", merged["heads"])
    missing_is_known = signature is not None or bool(problems)
    problems += _problems(merged, place, signature_missing_is_known=missing_is_known)
    if problems:
        only_text = all(problem.span is not None for problem in problems) and place is None
        raise _as_signature_error(problems) if only_text else SpecError(*problems)
    return ModelSpec(**merged)  # type: ignore[arg-type]


def _as_signature_error(problems: list[Problem]) -> RinscError:
    from rinsc.errors import SignatureError

    return SignatureError(*problems)


def _signature(
    value: object, binding: Mapping[str, int], problems: list[Problem], place: str | None
) -> Signature | None:
    """Parse and bind; a mistake is added to ``problems`` with the file named."""
    if value is None:
        return None
    if not isinstance(value, str | Signature):
        message = f"'signature' must be text, not {type(value).__name__}"
        problems.append(
            Problem("bad-type", message, place=_at(place, "signature"), hint="write it in quotes")
        )
        return None
    try:
        tree = bind_exponents(parse(value) if isinstance(value, str) else value, binding)
        require_lowered(tree)
    except RinscError as error:
        where = None if place is None else _at(place, "signature")
        problems += [dataclasses.replace(problem, place=where) for problem in error.problems]
        return None
    return tree


def _sizes_win_over_preset(
    signature: Signature, values: dict[str, object], base: dict[str, object]
) -> None:
    """Where every letter has a size, the layer count follows from them, not from a preset."""
    if "layers" in values:
        return
    try:
        base["layers"] = sum(part_sizes(signature, None).values())
    except RinscError:
        return


def _at(place: str | None, key: str) -> str:
    return key if place is None else f"{place}: {key}"


def _problems(
    values: Mapping[str, object], place: str | None, *, signature_missing_is_known: bool = False
) -> list[Problem]:
    """Every mistake in the values: unknown keys, missing ones, bad types, impossible pairs."""
    problems = [
        Problem(
            "unknown-key",
            f"'{key}' is not a key of a spec",
            place=_at(place, key),
            hint=did_you_mean(key, KEYS),
        )
        for key in values
        if key not in KEYS
    ]
    for key in _REQUIRED:
        if key not in values and not (key == "signature" and signature_missing_is_known):
            hint = f"add '{key}', or name a preset: {', '.join(PRESETS)}"
            problems.append(
                Problem("missing-key", f"'{key}' is not given", place=_at(place, key), hint=hint)
            )
    sound: dict[str, Any] = {}
    for key in KEYS:
        if key not in values:
            continue
        problem = _value_problem(key, values[key], place)
        if problem is None:
            sound[key] = values[key]
        else:
            problems.append(problem)
    return problems + _combination_problems(sound, place)


def _value_problem(key: str, value: object, place: str | None) -> Problem | None:
    """A wrong type or an impossible value of one key."""
    wanted = _TYPES[key]
    fits = type(value) is wanted or (wanted is float and type(value) is int)
    if not fits:
        words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
        message = f"'{key}' must be {words.get(wanted, 'a signature')}, not {value!r:.40}"
        return Problem("bad-type", message, place=_at(place, key), hint=f"change '{key}'")
    if wanted is int and not 1 <= value <= MAX_DIMENSION:  # type: ignore[operator]
        message = f"'{key}' is {value}; it must be from 1 to {MAX_DIMENSION}"
        return Problem("bad-value", message, place=_at(place, key), hint=f"change '{key}'")
    if wanted is float and not 0 < value < float("inf"):  # type: ignore[operator]
        message = f"'{key}' is {value}; it must be above 0 and finite"
        return Problem("bad-value", message, place=_at(place, key), hint=f"change '{key}'")
    if key == "kind" and value not in KINDS:
        message = f"'{value}' is not a layer kind"
        hint = did_you_mean(str(value), KINDS)
        return Problem("unknown-kind", message, place=_at(place, key), hint=hint)
    return None


def _combination_problems(sound: Mapping[str, Any], place: str | None) -> list[Problem]:
    """Values that are right alone and impossible together."""
    problems = []
    for small, large in (("heads", "width"), ("kv_heads", "heads")):
        if small in sound and large in sound and sound[large] % sound[small]:
            divisors = [n for n in range(1, 129) if sound[large] % n == 0 and n <= sound[large]]
            close = sorted(divisors, key=lambda n: abs(n - sound[small]))[:3]
            problems.append(
                Problem(
                    "does-not-divide",
                    f"{small} = {sound[small]} does not divide {large} = {sound[large]}",
                    place=_at(place, small),
                    hint=f"{small} that divide it: {', '.join(map(str, sorted(close)))}",
                )
            )
    if "signature" in sound and "layers" in sound:
        try:
            require_lowered(sound["signature"])
            part_sizes(sound["signature"], sound["layers"])
        except RinscError as error:
            where = None if place is None else _at(place, "layers")
            problems += [dataclasses.replace(problem, place=where) for problem in error.problems]
    return problems
