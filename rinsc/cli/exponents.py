"""``--set`` over several models: each is given the exponents that it has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rinsc.cli.runs import is_run
from rinsc.cli.values import bindings
from rinsc.errors import Problem, RinscError, SignatureError
from rinsc.files import parse_toml, read_regular_text


def share_bindings(pairs: Sequence[str], models: Sequence[str]) -> list[dict[str, int]]:
    """For each model, the values of those exponents that it has.

    Raises UsageError for pairs that are none, and SignatureError for a name that is in no model.
    """
    values = bindings(pairs)
    if not values:
        return [{} for _ in models]
    names = [_free_names(model) for model in models]
    if all(found is not None for found in names):
        _require_used(values, sorted({name for found in names for name in found or ()}))
    return [
        {name: value for name, value in values.items() if found is None or name in found}
        for found in names
    ]


def _require_used(values: dict[str, int], free: list[str]) -> None:
    hint = f"free exponents here: {', '.join(free)}" if free else "there are no free exponents here"
    problems = [
        Problem(
            "unknown-exponent",
            f"no signature has the free exponent '{name}'",
            place=f"--set {name}={value}",
            hint=hint,
        )
        for name, value in values.items()
        if name not in free
    ]
    if problems:
        raise SignatureError(*problems)


def _free_names(model: str) -> set[str] | None:
    """Names of the free exponents; None for a model that cannot be read."""
    from rinsc.syntax import free_exponents, parse

    if is_run(model):
        return set()
    try:
        text = _signature_of_file(model) if model.endswith(".toml") else model
        return set(free_exponents(parse(text)))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, RinscError):
        return None


def _signature_of_file(path: str) -> str:
    text = parse_toml(read_regular_text(Path(path)))["signature"]
    if not isinstance(text, str):
        raise TypeError
    return text
