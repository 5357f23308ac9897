"""A study as it is written: its keys, each of the right type."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from rinsc.errors import Problem, SpecError, did_you_mean
from rinsc.scalars import real, whole
from rinsc.storage.files import parse_toml, read_regular_text
from rinsc.study.rates import (
    DEFAULT_SEEDS,
    FOLLOW_UPS,
    LEAST_TRIALS,
    MOST_TRIALS,
    Tuning,
    grid,
)
from rinsc.variants.costed import Limits

Match: TypeAlias = Literal["training FLOPs", "tokens", "parameters", "inference FLOPs"]
RateRule: TypeAlias = Literal["tuned", "fixed"]
TUNING_KEYS = ("rates", "trials", "seeds", "budgets")
LIMITS = tuple(field.name for field in dataclasses.fields(Limits))
ENUMERATION_KEYS = ("letters", "length", "degree", "limit", "strict")


@dataclass(frozen=True)
class Description:
    """A study as it is written, each key of the right type."""

    title: str = ""
    baseline: str = ""
    data: str = "plays"
    variants: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    enumerate: tuple[Mapping[str, Any], ...] = ()
    seeds: tuple[int, ...] = (0,)
    budgets: tuple[str, ...] = ()
    match: Match = "training FLOPs"
    rate: RateRule | None = None
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    tuning: Mapping[str, Any] | None = None

    @property
    def is_tuned(self) -> bool:
        """Whether each variant gets a rate of its own; one for all where nothing is written."""
        return self.rate == "tuned" or (self.rate is None and self.tuning is not None)

    @property
    def tuning_seeds(self) -> tuple[int, ...]:
        """Of the trials, where rates are tuned."""
        seeds: tuple[int, ...] = (self.tuning or {}).get("seeds", DEFAULT_SEEDS)
        return seeds

    def tuning_around(self, base: float, smallest: str) -> Tuning | None:
        """How rates are tuned, around the rate of the settings and by default at the smallest
        budget; None where one rate is for all."""
        if not self.is_tuned:
            return None
        table = self.tuning or {}
        rates = table.get("rates", grid(base))
        return Tuning(
            rates=tuple(sorted(rates)),
            trials=table.get("trials", len(rates) + FOLLOW_UPS),
            seeds=self.tuning_seeds,
            budgets=table.get("budgets", (smallest,)),
        )


def read_study(path: Path) -> dict[str, Any]:
    """The contents of a TOML file; raises SpecError."""
    try:
        return parse_toml(read_regular_text(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "name a TOML file with variants, baseline, seeds and budgets"
        raise SpecError(
            "bad-study", f"cannot read the study: {reason}", place=str(path), hint=hint
        ) from None


def checked_description(values: Mapping[str, Any], place: str | None) -> Description:
    """The study of these values; raises SpecError with every mistake of a key."""
    fields = tuple(field.name for field in dataclasses.fields(Description))
    problems = _unknown_keys(values, fields, "a study", place)
    read: dict[str, Any] = {}
    for key in (name for name in fields if name in values):
        value, rule = _value(key, values[key])
        if rule is None:
            read[key] = value
        else:
            problems.append(_bad_value(key, values[key], rule, place))
    if not problems:
        problems += [
            Problem("bad-study", f"a study needs a {what}", place=place, hint=_example(key))
            for key, what in (("budgets", "budget"), ("baseline", "baseline"))
            if not read.get(key)
        ]
    for table in read.get("enumerate", ()):
        problems += _unknown_keys(table, (*ENUMERATION_KEYS, *LIMITS), "[[enumerate]]", place)
        if not {"letters", "length"} <= table.keys():
            message = "[[enumerate]] needs letters and length"
            hint = "write letters = 2 and length = 4"
            problems.append(Problem("bad-study", message, place=place, hint=hint))
    if read.get("tuning") is not None:
        read["tuning"] = _checked_tuning(read["tuning"], place, problems)
    description = Description(**read)
    problems += _shared_seeds(description, place)
    if problems:
        raise SpecError.of(*problems)
    return description


def _unknown_keys(
    values: Mapping[str, Any], known: Sequence[str], what: str, place: str | None
) -> list[Problem]:
    return [
        Problem(
            "unknown-key",
            f"{what} has no key '{key}'",
            place=place,
            hint=did_you_mean(key, known),
        )
        for key in values
        if key not in known
    ]


def _bad_value(key: str, value: Any, rule: str, place: str | None) -> Problem:
    message = f"'{key}' must be {rule}, not {value!r:.60}"
    return Problem("bad-study", message, place=place, hint=_example(key))


def _example(key: str) -> str:
    examples = {
        "baseline": 'baseline = "AB"',
        "seeds": "seeds = [1, 2, 3]",
        "budgets": 'budgets = ["1e15", "4e15"], in FLOPs, or "6e6tokens"',
        "match": f"match = one of {', '.join(get_args(Match))}",
        "rate": f"rate = one of {', '.join(get_args(RateRule))}",
        "model": 'a table [model] with preset = "tiny"',
        "settings": "a table [settings] with batch_sequences = 16",
        "tuning": "a table [tuning] with trials = 5",
        "enumerate": "a table [[enumerate]] with letters = 2 and length = 4",
        "tuning.rates": "rates = [1e-3, 2e-3, 4e-3]",
        "tuning.trials": "trials = 5",
        "tuning.seeds": "seeds = [101]",
        "tuning.budgets": 'budgets = ["1e15"]',
    }
    return f"write {examples.get(key, f'{key} = a text, or a list of texts')}"


def _value(key: str, value: Any) -> tuple[Any, str | None]:
    """The value as a description holds it, and what it must be where it is not."""
    if key in ("title", "baseline", "data"):
        return value, None if isinstance(value, str) else "a text"
    if key in ("model", "settings", "tuning"):
        return value, None if isinstance(value, Mapping) else "a table"
    choices = {"match": get_args(Match), "rate": get_args(RateRule)}.get(key)
    if choices is not None:
        return value, None if value in choices else f"one of {', '.join(choices)}"
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value, "a list"
    if key == "seeds":
        return _seeds(value)
    items = tuple(value)
    if key == "enumerate":
        return items, None if all(isinstance(item, Mapping) for item in items) else "tables"
    return items, None if all(isinstance(item, str) for item in items) else "texts"


def _seeds(value: Sequence[Any]) -> tuple[Any, str | None]:
    items = tuple(map(whole, value))
    fits = all(item is not None and item >= 0 for item in items)
    fits = fits and bool(items) and len(set(items)) == len(items)
    return items, None if fits else "different whole numbers from 0 on"


def _checked_tuning(
    table: Mapping[str, Any], place: str | None, problems: list[Problem]
) -> dict[str, Any]:
    """The table of tuning, with what is wrong in it added to ``problems``."""
    problems += _unknown_keys(table, TUNING_KEYS, "[tuning]", place)
    read: dict[str, Any] = {}
    for key in (name for name in TUNING_KEYS if name in table):
        value, rule = _tuning_value(key, table[key])
        if rule is None:
            read[key] = value
        else:
            problems.append(_bad_value(f"tuning.{key}", table[key], rule, place))
    trials, rates = read.get("trials"), len(read.get("rates", ())) or LEAST_TRIALS
    if trials is not None and trials < rates:
        rule = f"at least {rates}, one for each of the first rates"
        problems.append(_bad_value("tuning.trials", trials, rule, place))
    return read


def _tuning_value(key: str, value: Any) -> tuple[Any, str | None]:
    if key == "trials":
        count = whole(value)
        fits = count is not None and LEAST_TRIALS <= count <= MOST_TRIALS
        return count, None if fits else f"a whole number from {LEAST_TRIALS} to {MOST_TRIALS}"
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value, "a list"
    if key == "rates":
        rates = tuple(map(real, value))
        fits = all(rate is not None and 0 < rate < float("inf") for rate in rates)
        fits = fits and len(set(rates)) == len(rates)
        count = LEAST_TRIALS <= len(rates) <= MOST_TRIALS
        rule = f"{LEAST_TRIALS} to {MOST_TRIALS} different numbers above 0"
        return rates, None if fits and count else rule
    if key == "seeds":
        return _seeds(value)
    items = tuple(value)
    fits = all(isinstance(item, str) for item in items)
    return items, None if items and fits and len(set(items)) == len(items) else "different texts"


def _shared_seeds(description: Description, place: str | None) -> list[Problem]:
    """A rate that is chosen with a seed looks better at that seed than it is."""
    shared = sorted(set(description.tuning_seeds) & set(description.seeds))
    if not shared or not description.is_tuned:
        return []
    message = f"the seed {shared[0]} both tunes and ranks"
    hint = "give [tuning] other seeds, as seeds = [101]"
    return [Problem("seed-in-ranking", message, place=place, hint=hint)]
