"""Settings that a layer kind has of its own: ``[settings.albert]`` in a file, a table a kind.

A kind declares a frozen dataclass (`rinsc.layers.LayerKind.settings`). A spec keeps what differs
from the defaults, as plain values: a kind that no spec gives settings to is never loaded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from rinsc.errors import Problem, RinscError, did_you_mean, nearest
from rinsc.scalars import plain
from rinsc.spec.checks import at_key, shown, unknown_keys, value_problem
from rinsc.spec.kinds import (
    DEFAULTS,
    LAYERS_OF,
    broken_kind,
    found_kind,
    is_kind,
    source_of_kind,
    unknown_kind_hint,
)

KEY = "settings"
TYPES = (int, float, bool, str)
# Once keys of every spec; files of 0.4.0 and before have them, whatever their kind.
FORMER_KEYS: Mapping[str, str] = {"embedding_width": "albert", "patch_width": "vit"}
Tables: TypeAlias = Mapping[str, Mapping[str, Any]]


class KindSettings(Mapping[str, Mapping[str, Any]]):
    """What a spec sets of each kind, by kind and key; hashable, in the order of the alphabet.

    >>> KindSettings({"albert": {"embedding_width": 24}})
    {'albert': {'embedding_width': 24}}
    """

    def __init__(self, tables: Tables | None = None) -> None:
        self._items = tuple(
            (kind, tuple(sorted(table.items())))
            for kind, table in sorted((tables or {}).items())
            if table
        )

    def __getitem__(self, kind: str) -> Mapping[str, Any]:
        return MappingProxyType(dict(dict(self._items)[kind]))

    def __iter__(self) -> Iterator[str]:
        return (kind for kind, _ in self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(self._items)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KindSettings) and self._items == other._items

    def __repr__(self) -> str:
        return repr(self.plain)

    @property
    def plain(self) -> dict[str, dict[str, Any]]:
        """As dictionaries, which JSON takes."""
        return {kind: dict(table) for kind, table in self._items}


NO_SETTINGS = KindSettings()


def settings_class(kind: str) -> type:
    """The dataclass of a kind's settings; raises `GraphError` for a kind that cannot be used."""
    declared: object = getattr(found_kind(kind), KEY, None)
    if not isinstance(declared, type):
        source = source_of_kind(kind)
        raise broken_kind(kind, source, f"'{source.attribute}' is not a LayerKind")
    return declared


def implied_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """What follows from the kind of a spec, and is not said again: defaults of its own, and the
    ``context`` of one whose settings have it as a property."""
    kind = values.get("kind")
    if not isinstance(kind, str) or (kind not in LAYERS_OF and kind not in DEFAULTS):
        return {}
    implied = dict(DEFAULTS.get(kind, {}))
    declared = settings_class(kind)
    if hasattr(declared, "context"):
        tables = values.get(KEY, {})
        own = tables.get(kind, {}) if isinstance(tables, Mapping) else {}
        sound, mistakes = _checked_table(kind, declared, own, None, set())
        if not mistakes:
            implied["context"] = declared(**sound).context
        elif "context" not in values:
            implied["context"] = 1  # of settings whose own mistake is told
    return implied


def key_hint(key: str, keys: Iterable[str], kinds: Iterable[str]) -> str:
    """The hint for a key that neither a spec has nor the settings of its ``kinds``."""
    names = {k: list(settings_types(settings_class(k))) for k in kinds if is_kind(k)}
    settings = {kind: own for kind, own in names.items() if own}
    close = nearest(key, [*keys, *(name for own in settings.values() for name in own)])
    if close or not settings:
        return did_you_mean(key, [close] if close else keys)
    texts = [f"settings of {kind}: {', '.join(own)}" for kind, own in settings.items()]
    return "; ".join([*texts, f"keys of a spec: {', '.join(keys)}"])


def settings_types(declared: type) -> Mapping[str, Any]:
    """The keys of a dataclass of settings, and the type of each."""
    hints = get_type_hints(declared)
    return {field.name: hints[field.name] for field in dataclasses.fields(declared)}


def declaration_problem(declared: object) -> str | None:
    """What is wrong with what a kind declares as its settings, in words."""
    if not isinstance(declared, type) or not dataclasses.is_dataclass(declared):
        return "settings must be a frozen dataclass"
    if not declared.__dataclass_params__.frozen:  # type: ignore[attr-defined]
        return f"settings must be a frozen dataclass, and {declared.__name__} is not frozen"
    for field in dataclasses.fields(declared):
        if field.default is dataclasses.MISSING:
            return f"the setting '{field.name}' needs a default"
    for key, kind_of_value in settings_types(declared).items():
        is_choice = get_origin(kind_of_value) is Literal and all(
            isinstance(choice, str) for choice in get_args(kind_of_value)
        )
        if kind_of_value not in TYPES and not is_choice:
            return f"the setting '{key}' must be an int, a float, a bool, a str or a Literal"
    return None


def with_flat_keys(values: Mapping[str, Any], kinds: Iterable[str], known: Iterable[str]) -> Any:
    """The values with each key that a spec does not know in the table of the kinds that have it.

    Returns them with the tables under `KEY`, and which settings came as a flat key. ``kinds`` are
    those of the spec.
    """
    known = set(known)
    moved = {key: value for key, value in values.items() if key not in known}
    tables = values.get(KEY, {})
    flat: set[tuple[str, str]] = set()
    if not moved or not isinstance(tables, Mapping):
        return values, flat
    tables = {kind: dict(t) if isinstance(t, Mapping) else t for kind, t in tables.items()}
    rest = {key: value for key, value in values.items() if key in known}
    used = {kind: settings_types(settings_class(kind)) for kind in kinds if is_kind(kind)}
    for key, value in moved.items():
        owners = [kind for kind, types in used.items() if key in types]
        owners = owners or [FORMER_KEYS[k] for k in (key,) if k in FORMER_KEYS]
        for kind in owners:
            if isinstance(tables.setdefault(kind, {}), dict):
                tables[kind][key] = value
                flat.add((kind, key))
        if not owners:
            rest[key] = value
    return ({**rest, KEY: tables} if tables else rest), flat


def checked_settings(
    tables: object, location: str | None, flat: Iterable[tuple[str, str]] = ()
) -> tuple[KindSettings, list[Problem]]:
    """What differs from the defaults, and every mistake; ``flat`` are named without a table."""
    if isinstance(tables, KindSettings):
        tables = tables.plain
    sound: dict[str, dict[str, Any]] = {}
    problems: list[Problem] = []
    if not isinstance(tables, Mapping):
        message = f"'{KEY}' must be a table of tables, one a kind, not {shown(tables)}"
        hint = "for example: settings = { albert = { embedding_width = 128 } }"
        return KindSettings(), [
            Problem("bad-type", message, place=at_key(location, KEY), hint=hint)
        ]
    for kind, table in tables.items():
        where = f"{KEY}.{kind!s:.40}"
        if not is_kind(kind):
            message = f"{shown(kind)} is not a layer kind"
            hint = unknown_kind_hint(str(kind)[:40])
            problems.append(
                Problem("unknown-kind", message, place=at_key(location, where), hint=hint)
            )
        elif not isinstance(table, Mapping):
            message = f"'{where}' must be a table of settings, not {shown(table)}"
            hint = f"for example: [{where}]"
            problems.append(Problem("bad-type", message, place=at_key(location, where), hint=hint))
        else:
            try:
                declared = settings_class(kind)
            except RinscError as error:
                problems += error.problems
                continue
            own = {key for owner, key in flat if owner == kind}
            sound[kind], mistakes = _checked_table(kind, declared, table, location, own)
            problems += mistakes
    return KindSettings(sound), problems


def _checked_table(
    kind: str, declared: type, table: Mapping[str, Any], location: str | None, flat: set[str]
) -> tuple[dict[str, Any], list[Problem]]:
    def where(key: str) -> str:
        return at_key(location, key if key in flat else f"{KEY}.{kind}.{key}")

    types = settings_types(declared)
    problems = unknown_keys(map(str, table), types, f"the settings of '{kind}'", where)
    sound: dict[str, Any] = {}
    for field in dataclasses.fields(declared):
        if field.name not in table:
            continue
        value = plain(table[field.name])
        problem = _problem(field, types[field.name], value)
        if problem is not None:
            problems.append(dataclasses.replace(problem, place=where(field.name)))
            continue
        value = float(value) if types[field.name] is float else value  # type: ignore[arg-type]
        if value != field.default:
            sound[field.name] = value
    if not problems:
        problems += _own_check(kind, declared, sound, location)
    return sound, problems


def _problem(field: dataclasses.Field[Any], kind_of_value: Any, value: Any) -> Problem | None:
    """A wrong type or value; ``least`` in a field's metadata allows less than the usual 1."""
    key = field.name
    if get_origin(kind_of_value) is Literal:
        if value in get_args(kind_of_value):
            return None
        message = (
            f"'{key}' is {shown(value)}; it must be one of {', '.join(get_args(kind_of_value))}"
        )
        return Problem("bad-value", message, hint=f"change '{key}'")
    least = field.metadata.get("least")
    if least is not None and value == least and type(value) in (kind_of_value, int):
        return None
    return value_problem(key, kind_of_value, value, None)


def _own_check(
    kind: str, declared: type, values: Mapping[str, Any], location: str | None
) -> list[Problem]:
    """What the dataclass itself refuses, by a ValueError of its ``__post_init__``."""
    try:
        declared(**values)
    except RinscError as error:
        return list(error.problems)
    except (ValueError, TypeError) as error:
        where = at_key(location, f"{KEY}.{kind}")
        hint = f"change the settings of the kind '{kind}'"
        return [Problem("bad-value", f"{error!s:.200}", place=where, hint=hint)]
    return []


def filled(settings: KindSettings, kinds: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The tables with every setting of ``kinds``, defaults too."""
    tables = settings.plain
    for kind in kinds:
        types = settings_types(settings_class(kind))
        defaults = {f.name: f.default for f in dataclasses.fields(settings_class(kind))}
        if types:
            tables[kind] = {**defaults, **tables.get(kind, {})}
    return tables
