"""Values written on the command line: counts with units, seeds, rounds, exponents."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter, Token

from rinsc.errors import Problem, SignatureError, UsageError
from rinsc.errors import option_values as option_values
from rinsc.extras import zoo_file
from rinsc.sampling import MAX_SEED
from rinsc.scalars import whole_count
from rinsc.verbs.models import free_names

_PAIR = re.compile(r"([A-Za-z][A-Za-z0-9_]*)=(\d{1,9})")


def _convert(_: type[Any], tokens: Sequence[Token]) -> int:
    return whole_count(tokens[0].value)


# Parameters and FLOPs are long numbers: units are welcome.
Count = Annotated[int, Parameter(converter=_convert, n_tokens=1)]


def whole_seed(text: str) -> int:
    """A number from 0 to `MAX_SEED`; raises ValueError for anything else."""
    if not re.fullmatch(r"\d{1,19}", text) or int(text) > MAX_SEED:
        raise ValueError(f"a seed is a whole number from 0 to {MAX_SEED}")
    return int(text)


def _convert_seed(_: type[Any], tokens: Sequence[Token]) -> int:
    return whole_seed(tokens[0].value)


Seed = Annotated[int, Parameter(converter=_convert_seed, n_tokens=1)]

# An option that may be given again, and takes several values at once between commas: see `listed`.
Listed = Annotated[tuple[str, ...], Parameter(show_default=False, negative=())]

# A file or a folder to write.
Output = Annotated[Path | None, Parameter(name=("--output", "-o"))]

# What parse_rounds reads.
RoundsOption = Listed


def listed(texts: Sequence[str]) -> list[str]:
    """``["a,b", "c"]`` as ``["a", "b", "c"]``, each value once, empty ones left out."""
    values = (value.strip() for text in texts for value in text.split(","))
    return list(dict.fromkeys(value for value in values if value))


def model_text(text: str) -> str:
    """The text of a model, with the file in place of the name of an entry of the zoo."""
    entry = zoo_file(text)
    return text if entry is None else str(entry)


def _convert_model(_: type[Any], tokens: Sequence[Token]) -> str:
    return model_text(tokens[0].value)


# A signature, a TOML file, a run folder, or the name of an entry of the zoo.
ModelText = Annotated[str, Parameter(converter=_convert_model, n_tokens=1)]


def bindings(pairs: Sequence[str]) -> dict[str, int]:
    """``["r=3"]`` as exponents by name; raises UsageError."""
    return _pairs(pairs, "--set", "r=3")


def kind_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """``["kernel_size=5"]`` as settings of a kind, each value as TOML writes it, or as text."""
    from rinsc.storage.files import parse_toml

    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.isidentifier():
            message = f"--setting does not take '{pair[:60]}'"
            raise UsageError("usage", message, hint="write --setting kernel_size=5")
        if name in values:
            message = f"--setting gives '{name}' twice"
            raise UsageError("usage", message, hint="give it once")
        try:
            values[name] = parse_toml(f"value = {text}")["value"]
        except ValueError:
            values[name] = text
    return values


def parse_rounds(texts: Sequence[str], option: str = "--rounds") -> int | Mapping[str, int] | None:
    """The values of an option, ``["3"]`` or ``["A=2", "B=4"]``; raises UsageError for no rounds."""
    if not texts:
        return None
    from rinsc.graph import plain_rounds

    rounds = plain_rounds(",".join(texts))
    if isinstance(rounds, str):
        message = f"{option} does not take '{rounds[:60]}'"
        hint = f"write {option} 3, or A=2 for one repeat, and each repeat once"
        raise UsageError("bad-rounds", message, hint=hint)
    return rounds


def _pairs(texts: Sequence[str], option: str, example: str) -> dict[str, int]:
    values: dict[str, int] = {}
    for text in (pair.strip() for text_of_pairs in texts for pair in text_of_pairs.split(",")):
        match = _PAIR.fullmatch(text)
        if match is None:
            message = f"{option} does not take '{text[:60]}'"
            raise UsageError("usage", message, hint=f"write {option} {example}")
        name, value = match.groups()
        if name in values:
            message = f"{option} gives '{name}' twice"
            raise UsageError("usage", message, hint="give it once")
        values[name] = int(value)
    return values


def share_bindings(pairs: Sequence[str], models: Sequence[str]) -> list[dict[str, int]]:
    """For each model, the values of those exponents that it has.

    Raises UsageError for pairs that are none, and SignatureError for a name that is in no model.
    """
    values = bindings(pairs)
    if not values:
        return [{} for _ in models]
    names = [free_names(model) for model in models]
    if all(names_of_model is not None for names_of_model in names):
        _require_used(
            values, sorted({name for names_of_model in names for name in names_of_model or ()})
        )
    return [
        {
            name: value
            for name, value in values.items()
            if names_of_model is None or name in names_of_model
        }
        for names_of_model in names
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
        raise SignatureError.of(*problems)
