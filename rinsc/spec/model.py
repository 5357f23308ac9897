"""The model spec: everything about a variant that its signature cannot say, checked as a whole."""

from __future__ import annotations

import dataclasses
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from typing import Any, get_type_hints

from rinsc.errors import Problem, RinscError, SignatureError, SpecError, did_you_mean, listed
from rinsc.scalars import html_table, plain, whole
from rinsc.spec.checks import (
    MAX_SHOWN,
    at_key,
    combination_problems,
    shown,
    unknown_keys,
    value_problem,
)
from rinsc.spec.kinds import layers_kind
from rinsc.spec.presets import PRESETS, TOWER_PRESETS, preset_of_kind
from rinsc.spec.settings import (
    FORMER_KEYS,
    NO_SETTINGS,
    KindSettings,
    checked_settings,
    filled,
    implied_values,
    key_hint,
    settings_class,
    with_flat_keys,
)
from rinsc.spec.settings import KEY as SETTINGS
from rinsc.syntax import NormalForm, normal_form, parse, to_text
from rinsc.syntax import bind as bind_exponents
from rinsc.syntax.normal import letter_sizes, stack_of
from rinsc.syntax.settings import BlockOptions
from rinsc.syntax.tree import Signature, Towers, mentions
from rinsc.syntax.unexpected import refuse_doubtful


@dataclass(frozen=True)
class ModelSpec:
    """A variant: a signature with every exponent bound, and its dimensions.

    ``layers`` counts the physical layers of the whole stack; ``mlp_width`` is the inner width of
    the feed-forward part; ``context`` is the longest sequence in tokens. ``head_dim`` is the width
    of a head, where it is not ``width // heads``. ``settings`` are those that kinds have of their
    own, a table a kind, without those at their defaults. Raises `SpecError` with every mistake at
    once.

    >>> from rinsc import model_spec
    >>> spec = model_spec("(A^3)B", preset="tiny", width=96, heads=6, kv_heads=2)
    >>> spec.width // spec.heads, spec.layers
    (16, 12)
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
    head_dim: int | None = None
    settings: KindSettings = NO_SETTINGS

    def __post_init__(self) -> None:
        checked = check_values(field_values(self), None)
        if checked.problems:
            raise SpecError.of(*checked.problems)
        self._take(checked)

    def _take(self, checked: CheckedValues) -> None:
        """The checked values become those of the spec; ``normal`` is not worked out again."""
        for key, value in checked.values.items():
            object.__setattr__(self, key, value)
        object.__setattr__(self, "normal", checked.normal)

    def __repr__(self) -> str:
        values = ", ".join(f"{key}={value!r}" for key, value in self._chosen().items())
        return f"ModelSpec({self.text!r}, {values})"

    def _repr_html_(self) -> str:
        """The signature and the dimensions, for notebooks."""
        rows = [(key, str(value)) for key, value in self._chosen().items()]
        return f"<div><code>{escape(self.text)}</code>{html_table((), rows)}</div>"

    def _chosen(self) -> dict[str, object]:
        """The values that are not as they are by default, the signature apart."""
        fields = [field for field in dataclasses.fields(self) if field.name != "signature"]
        values = {field.name: (field, getattr(self, field.name)) for field in fields}
        return {key: value for key, (field, value) in values.items() if value != field.default}

    @property
    def text(self) -> str:
        """The signature as text, structure kept, exponents bound."""
        return to_text(self.signature)

    @property
    def head_size(self) -> int:
        """The width of a head: `head_dim` where it is given."""
        return self.head_dim or self.width // self.heads

    def settings_of(self, kind: str) -> Any:
        """The settings of a kind, as the dataclass that it declares."""
        return settings_class(kind)(**self.settings.get(kind, {}))

    @cached_property
    def normal(self) -> NormalForm:
        """The signature at degree 1 and the layers of its parts, as every later stage reads it."""
        return normal_form(self.signature, self.layers)

    @property
    def parts(self) -> Mapping[str, int]:
        """Layers of each block, in order of first use."""
        return self.normal.sizes

    @property
    def block_options(self) -> Mapping[str, BlockOptions]:
        """What is said of each block, in order of first use."""
        return self.normal.options

    @cached_property
    def block_kinds(self) -> Mapping[str, str]:
        """The layer kind of each block: its own, else that of the model's layers."""
        common = layers_kind(self.kind)
        return {name: own.kind or common for name, own in self.block_options.items()}


# Every key of a spec, and its type.
KEYS: Mapping[str, Any] = {**get_type_hints(ModelSpec), "head_dim": int}
REQUIRED = tuple(
    field.name for field in dataclasses.fields(ModelSpec) if field.default is dataclasses.MISSING
)


def require_spec(spec: object) -> ModelSpec:
    """The spec itself; raises `SpecError` for text and everything else."""
    if isinstance(spec, ModelSpec):
        return spec
    towers = getattr(spec, "signature", None)
    if isinstance(towers, Towers):
        raise several_towers(towers)
    message = f"this needs a model spec, not {type(spec).__name__}"
    hint = "make one: rinsc.model_spec('(A^3)B', preset='tiny')"
    raise SpecError("not-a-spec", message, hint=hint)


def several_towers(towers: Towers) -> SpecError:
    """The error where one tower is wanted."""
    names = list(towers.signatures)
    message = f"this takes a model of one tower, and {to_text(towers):.100} has {listed(names, 8)}"
    hint = f"take one of them, spec.towers['{names[0]}']; costs of all: rinsc.cost_report"
    return SpecError("several-towers", message, hint=hint)


def field_values(spec: ModelSpec) -> dict[str, object]:
    """The spec as keys and values, in the order of the fields."""
    return {key: getattr(spec, key) for key in KEYS}


def spec_keys(spec: ModelSpec) -> dict[str, Any]:
    """The spec as plain keys and values, the signature as text; settings of its kinds in full."""
    kinds = dict.fromkeys((spec.kind, *spec.block_kinds.values()))
    values = {**field_values(spec), "signature": spec.text}
    values[SETTINGS] = filled(spec.settings, kinds)
    return {key: value for key, value in values.items() if value is not None and value != {}}


def dimensions(spec: ModelSpec) -> dict[str, Any]:
    """`spec_keys` without the signature, each setting as a key of its own: ``vit.patch_width``."""
    is_own = spec.head_dim not in (None, spec.width // spec.heads)
    values = {**spec_keys(spec), "head_dim": spec.head_dim if is_own else None}
    tables = values.pop(SETTINGS, {})
    del values["signature"]
    own = {f"{kind}.{key}": value for kind, table in tables.items() for key, value in table.items()}
    return {**values, **own}


@dataclass(frozen=True)
class CheckedValues:
    """Values of a spec as they are kept, with every mistake in them; sound only without any."""

    values: Mapping[str, Any]
    problems: list[Problem]
    normal: NormalForm | None

    def spec(self) -> ModelSpec:
        """The spec of sound values, which are not checked again."""
        spec = object.__new__(ModelSpec)
        spec._take(self)
        return spec


def check_values(
    values: Mapping[str, object],
    location: str | None,
    *,
    missing_and_known: Container[str] = (),
    strict: bool = False,
    flat: Iterable[tuple[str, str]] = (),
) -> CheckedValues:
    """The values, with every mistake: unknown keys, missing ones, bad types, impossible pairs.

    Keys in ``missing_and_known`` are missing for a reason that is reported elsewhere; ``strict``
    refuses layers that do not divide evenly; settings that are ``flat`` are told without a table.
    """
    known = (*KEYS, *FORMER_KEYS)
    implied = implied_values(values)
    values = {**implied, **values}
    problems = unknown_keys(
        *(values, known, "a spec", lambda key: at_key(location, key)),
        hint_of=lambda key: key_hint(key, known, _kinds(values)),
    )
    for key in REQUIRED:
        if key not in values and key not in missing_and_known:
            hint = f"add '{key}', or name a preset: {', '.join(PRESETS)}"
            problems.append(
                Problem(
                    "missing-key", f"'{key}' is not given", place=at_key(location, key), hint=hint
                )
            )
    sound: dict[str, Any] = {}
    settings, wrong = NO_SETTINGS, set[str]()
    for key in KEYS:
        if key not in values or (key == "head_dim" and values[key] is None):
            continue
        if key == SETTINGS:
            settings, mistakes = checked_settings(values[key], location, flat)
            problems += mistakes
            continue
        value: Any = plain(values[key])
        problem = value_problem(key, KEYS[key], value, location)
        if problem is None:
            # A whole number is welcome where a fraction may stand, and means the same.
            sound[key] = float(value) if KEYS[key] is float else value
        else:
            problems.append(problem)
            wrong.add(key)
    patches = implied.get("context", sound.get("context"))
    if sound.get("context", patches) != patches:
        message = f"context is {sound['context']}, and the settings of the pictures make "
        message += f"{patches} patches"
        hint = "leave context out, or change image_size or patch_size"
        where = at_key(location, "context")
        problems.append(Problem("context-mismatch", message, place=where, hint=hint))
    impossible, normal = combination_problems(sound, location, strict)
    wrong |= set(REQUIRED)
    defaults = {f.name: f.default for f in dataclasses.fields(ModelSpec) if f.name not in wrong}
    return CheckedValues(
        {**defaults, **sound, SETTINGS: settings}, [*problems, *impossible], normal
    )


def assemble(
    values: Mapping[str, object], binding: Mapping[str, int], location: str | None, strict: bool
) -> ModelSpec:
    """Preset, binding and given values to one spec; every mistake is collected first."""
    checked = read_values(values, binding, location, strict)
    if checked.problems:
        only_text = all(problem.span is not None for problem in checked.problems)
        raise (SignatureError if only_text and location is None else SpecError).of(
            *checked.problems
        )
    return checked.spec()


def read_values(
    values: Mapping[str, object], binding: Mapping[str, int], location: str | None, strict: bool
) -> CheckedValues:
    problems: list[Problem] = []
    own = {key: value for key, value in values.items() if key not in ("preset", "bind")}
    base = _preset(values.get("preset"), own.get("kind"), problems, location)
    bound = {**exponents_of(values.get("bind", {}), problems, location), **binding}
    explained = set(REQUIRED) if base is None else set()
    merged: dict[str, object] = merged_values(base or {}, own)
    if "context" not in own and "context" in implied_values(merged):
        merged.pop("context", None)  # that of a preset is of tokens
    if own.get("signature") is not None:
        explained.add("signature")
        signature = _signature(own["signature"], bound, problems, location)
        if signature is None:
            del merged["signature"]
            # Whether its sizes give the layers is not known; with nothing but a text, it may have
            # been meant as another thing than a signature.
            only_text = location is None and not (own.keys() - {"signature"}) and not base
            explained |= set(REQUIRED) if only_text else {"layers"}
        else:
            merged |= {"signature": signature, **_sizes_as_layers(signature, own)}
    if "heads" in merged:
        merged.setdefault("kv_heads", merged["heads"])
    else:
        explained.add("kv_heads")  # are as many as the heads, once those are given
    merged, flat = with_flat_keys(merged, _kinds(merged), KEYS)
    checked = check_values(merged, location, missing_and_known=explained, strict=strict, flat=flat)
    return replace(checked, problems=[*problems, *checked.problems])


def merged_values(values: Mapping[str, object], own: Mapping[str, object]) -> dict[str, object]:
    """What is given later wins, key by key in the settings of a kind too."""
    tables, more = values.get("settings"), own.get("settings")
    merged = {**values, **own}
    if isinstance(tables, Mapping) and isinstance(more, Mapping):
        kinds = {**tables, **more}
        merged["settings"] = {k: {**tables.get(k, {}), **more.get(k, {})} for k in kinds}
    return merged


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
    name: object, kind: object, problems: list[Problem], location: str | None
) -> Mapping[str, object] | None:
    """The dimensions of a preset, none without a name; None for a name that is wrong."""
    if name is None:
        return {}
    if isinstance(name, str) and name in PRESETS:
        return PRESETS[name]
    where = at_key(location, "preset")
    if isinstance(name, str) and name in TOWER_PRESETS:
        own = preset_of_kind(name, kind)
        if own is None:
            kinds = listed([*TOWER_PRESETS[name]], 4)
            message = f"the preset '{name}' is of two towers, and has no dimensions of this one"
            hint = f"call the towers image and text, or say a kind: {kinds}"
            problems.append(Problem("preset-of-towers", message, place=where, hint=hint))
        return own
    hint = did_you_mean(str(name)[:MAX_SHOWN], [*PRESETS, *TOWER_PRESETS])
    problems.append(
        Problem("unknown-preset", f"{shown(name)} is not a preset", place=where, hint=hint)
    )
    return None


def exponents_of(table: object, problems: list[Problem], location: str | None) -> Mapping[str, int]:
    """The exponents that a file binds."""
    if isinstance(table, dict) and all(whole(value) is not None for value in table.values()):
        return table
    message = "'bind' must be a table of whole numbers"
    hint = "for example: bind = { r = 3 }"
    problems.append(Problem("bad-type", message, place=at_key(location, "bind"), hint=hint))
    return {}


def _signature(
    value: object, binding: Mapping[str, int], problems: list[Problem], location: str | None
) -> Signature | None:
    """Parse and bind; a mistake is added to ``problems`` with the file named."""
    if value is None:
        return None
    if not isinstance(value, str | Signature):
        message = f"'signature' must be text, not {type(value).__name__}"
        problems.append(
            Problem(
                "bad-type", message, place=at_key(location, "signature"), hint="write it in quotes"
            )
        )
        return None
    try:
        tree = bind_exponents(parse(value) if isinstance(value, str) else value, binding)
    except RinscError as error:
        where = None if location is None else at_key(location, "signature")
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
