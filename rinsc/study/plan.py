"""The plan of a study: every run resolved, costed and checked before the first one begins.

A study is a TOML file such as

    title = "Where to spend depth"
    variants = ["A^2B", "A^3B", "rins-skip"]
    baseline = "AB"
    data = "plays"
    seeds = [1, 2, 3]
    budgets = ["1e12", "4e12"]

    [model]
    preset = "tiny"

    [settings]
    batch_sequences = 16

Planned, it is a list of runs: variants × budgets × seeds. A run is named by a hash of all that
decides it, so that the same plan names the same runs, wherever and whenever it is made. Two
variants that are the same model are planned once. PyTorch is not needed.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from rinsc.cost import stored_params
from rinsc.errors import Problem, RinscError, SpecError, did_you_mean, plural
from rinsc.extras import zoo_file
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.scalars import Table, rounded_count, rounded_flops, whole
from rinsc.spec import ModelSpec, model_spec, spec_to_toml, with_signature
from rinsc.spec.model import require_spec
from rinsc.storage.files import (
    parse_toml,
    read_regular_text,
    short_digest,
)
from rinsc.syntax import Signature, normal_form
from rinsc.training.budget import check_settings, run_config, spending
from rinsc.training.config import TrainConfig, config_to_toml
from rinsc.variants.enumerate import costed_members, family

VERSION = 1
MOST_RUNS = 100_000
Match = Literal["training FLOPs", "tokens"]


@dataclass(frozen=True)
class Variant:
    """A model of a study, under the name it is given there."""

    name: str
    spec: ModelSpec
    parameters: int


@dataclass(frozen=True)
class PlannedRun:
    """One run: ``name`` is a hash of everything that decides it."""

    name: str
    variant: str
    budget: str
    seed: int
    config: TrainConfig
    training_flops: int

    @property
    def words(self) -> str:
        """Which one it is, for a person."""
        return f"{self.variant} at {self.budget}, seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """All runs of a study, in the order in which they are begun: cheap ones first."""

    title: str
    baseline: str
    data: str
    match: Match
    variants: tuple[Variant, ...]
    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...] = ()

    @property
    def digest(self) -> str:
        """Of the runs, and so of the plan."""
        return short_digest("\n".join(run.name for run in self.runs))

    @property
    def training_flops(self) -> int:
        return sum(run.training_flops for run in self.runs)

    def variant(self, name: str) -> Variant:
        """The variant of this name."""
        return next(each for each in self.variants if each.name == name)

    def table(self) -> Table:
        """A row for each variant: its size, its runs and what they cost."""
        rows = []
        for variant in self.variants:
            runs = [run for run in self.runs if run.variant == variant.name]
            steps = [run.config.steps for run in runs]
            span = "" if min(steps) == max(steps) else f" to {max(steps):,}"
            flops = rounded_flops(sum(run.training_flops for run in runs))
            size = rounded_count(variant.parameters)
            rows.append((variant.name, size, f"{len(runs):,}", f"{min(steps):,}{span}", flops))
        return Table(("variant", "parameters", "runs", "steps", "training"), rows)

    @property
    def total(self) -> str:
        """All of it in a line."""
        return (
            f"{plural(len(self.runs), 'run')} on {self.data}, {rounded_flops(self.training_flops)} "
            f"of training; plan {self.digest}"
        )

    def facts(self) -> dict[str, Any]:
        """The plan as plain data, as its file holds it."""
        return {
            "version": VERSION,
            "digest": self.digest,
            "title": self.title,
            "baseline": self.baseline,
            "data": self.data,
            "match": self.match,
            "variants": [
                {
                    "name": variant.name,
                    "model": spec_to_toml(variant.spec),
                    "parameters": variant.parameters,
                }
                for variant in self.variants
            ],
            "runs": [
                {
                    "name": run.name,
                    "variant": run.variant,
                    "budget": run.budget,
                    "seed": run.seed,
                    "training_flops": run.training_flops,
                    "settings": config_to_toml(run.config),
                }
                for run in self.runs
            ],
            "notes": list(self.notes),
        }


def plan_study(source: str | Path | Mapping[str, Any]) -> Plan:
    """The plan of a TOML file, or of its contents.

    Raises SpecError with every mistake of every variant and setting at once.
    """
    place = None if isinstance(source, Mapping) else str(source)
    values = dict(source) if isinstance(source, Mapping) else _read(Path(source))
    description = _description(values, place)
    problems: list[Problem] = []
    base = _base(description)
    variants, notes = _variants(description, base, problems)
    runs: list[PlannedRun] = []
    count = len(variants) * len(description.budgets) * len(description.seeds)
    if count > MOST_RUNS:
        message = f"this makes {count:,} runs, and a study has at most {MOST_RUNS:,}"
        hint = "take fewer variants, budgets or seeds"
        raise SpecError("too-many-runs", message, place=place, hint=hint)
    reference = next((each for each in variants if each.name == description.baseline), None)
    if reference is not None:
        for variant in variants:
            for run in _runs(description, variant, reference, problems):
                runs.append(run)
    if problems:
        raise SpecError.of(*_without_repeats(problems))
    runs.sort(key=lambda run: (run.training_flops, run.seed))
    return Plan(
        *(description.title, description.baseline, description.data, description.match),
        variants=tuple(variants),
        runs=tuple(runs),
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Description:
    """A study as it is written, each key of the right type."""

    title: str = ""
    baseline: str = "AB"
    data: str = "plays"
    variants: tuple[str, ...] = ()
    families: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0,)
    budgets: tuple[str, ...] = ()
    match: Match = "training FLOPs"
    model: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _read(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_regular_text(path))
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        hint = "name a TOML file with variants, baseline, seeds and budgets"
        raise SpecError(
            "bad-study", f"cannot read the study: {reason}", place=str(path), hint=hint
        ) from None


def _description(values: Mapping[str, Any], place: str | None) -> _Description:
    fields = {field.name: field for field in dataclasses.fields(_Description)}
    problems = [
        Problem(
            "unknown-key",
            f"a study has no key '{key}'",
            place=place,
            hint=did_you_mean(key, fields),
        )
        for key in values
        if key not in fields
    ]
    read: dict[str, Any] = {}
    for key in fields.keys() & values.keys():
        value, rule = _value(key, values[key])
        if rule is None:
            read[key] = value
        else:
            message = f"'{key}' must be {rule}, not {values[key]!r:.60}"
            problems.append(Problem("bad-study", message, place=place, hint=_example(key)))
    if not problems and not read.get("budgets"):
        message = "a study needs a budget"
        problems.append(Problem("bad-study", message, place=place, hint=_example("budgets")))
    if problems:
        raise SpecError.of(*problems)
    return _Description(**read)


def _example(key: str) -> str:
    examples = {
        "seeds": "seeds = [1, 2, 3]",
        "budgets": 'budgets = ["1e15", "4e15"], in FLOPs, or "6e6tokens"',
        "match": f"match = one of {', '.join(get_args(Match))}",
        "model": 'a table [model] with preset = "tiny"',
        "settings": "a table [settings] with batch_sequences = 16",
    }
    return f"write {examples.get(key, f'{key} = a text, or a list of texts')}"


def _value(key: str, value: Any) -> tuple[Any, str | None]:
    """The value as a description holds it, and what it must be where it is not."""
    if key in ("title", "baseline", "data"):
        return value, None if isinstance(value, str) else "a text"
    if key in ("model", "settings"):
        return value, None if isinstance(value, Mapping) else "a table"
    if key == "match":
        return value, None if value in get_args(Match) else f"one of {', '.join(get_args(Match))}"
    if not isinstance(value, Sequence) or isinstance(value, str):
        return value, "a list"
    items = tuple(map(whole, value)) if key == "seeds" else tuple(value)
    if key == "seeds":
        fits = all(item is not None and item >= 0 for item in items) and len(set(items)) == len(
            items
        )
        return items, None if fits and items else "different whole numbers from 0 on"
    return items, None if all(isinstance(item, str) for item in items) else "texts"


def _base(description: _Description) -> ModelSpec:
    """The dimensions of the study, with its baseline as the signature."""
    dimensions = dict(description.model)
    if "signature" in dimensions:
        hint = "name signatures in 'variants' and 'baseline'"
        raise SpecError("bad-study", "'model' has dimensions alone", place="signature", hint=hint)
    spec = model_spec(_signature(description.baseline), **dimensions)
    require_spec(spec)
    return spec


def _variants(
    description: _Description, base: ModelSpec, problems: list[Problem]
) -> tuple[list[Variant], list[str]]:
    """Each different model once, the baseline first, and notes of those left out."""
    notes: list[str] = []
    members: list[str] = []
    for name in description.families:
        with _collected(problems):
            sized = costed_members(family(name), base, notes.append, strict=True)
            members += [each.signature for each, _ in sized]
    named = dict.fromkeys([description.baseline, *description.variants])
    by_fingerprint: dict[str, Variant] = {}
    for name in dict.fromkeys([*named, *members]):
        spec = None
        with _collected(problems, name):
            spec = with_signature(base, _signature(name))
        if spec is None:
            continue
        if not _is_even(spec):
            layers = plural(spec.layers, "layer")
            notes.append(f"{name} has an uneven split of {layers}: earlier blocks have more")
        key = fingerprint(spec)
        if key in by_fingerprint:
            notes.append(f"{name} is the same model as {by_fingerprint[key].name}, and is left out")
            continue
        by_fingerprint[key] = Variant(name, spec, stored_params(build_graph(spec)))
    return list(by_fingerprint.values()), notes


def _signature(name: str) -> str | Signature:
    """The signature that a name stands for; a file and an entry of the zoo have dimensions besides,
    which a study does not take."""
    if not name.endswith(".toml") and zoo_file(name) is None:
        return name
    other = model_spec(name)
    require_spec(other)
    return other.signature


def _is_even(spec: ModelSpec) -> bool:
    try:
        normal_form(spec.signature, spec.layers, strict=True)
    except RinscError:
        return False
    return True


def _runs(
    description: _Description, variant: Variant, reference: Variant, problems: list[Problem]
) -> Iterator[PlannedRun]:
    graph = build_graph(variant.spec)
    for text in description.budgets:
        for seed in description.seeds:
            config = None
            with _collected(problems, f"{variant.name} at {text}"):
                values = {**description.settings, "seed": seed}
                config = _config(variant.spec, reference.spec, values, text, description.match)
            if config is None:
                return  # the other seeds have the same mistake
            flops = spending(config, graph).training_flops
            name = short_digest(
                json.dumps(
                    [VERSION, spec_to_toml(variant.spec), config_to_toml(config), description.data]
                )
            )
            yield PlannedRun(name, variant.name, text, seed, config, flops)


def _config(
    spec: ModelSpec, reference: ModelSpec, values: Mapping[str, Any], budget: str, match: Match
) -> TrainConfig:
    """The settings of a run: as many steps as the budget of the baseline pays for."""
    if "steps" in values:
        hint = "give the steps in 'budgets', as \"1000steps\""
        raise SpecError("bad-study", "'settings' takes no steps", place="steps", hint=hint)
    baseline = reference if match == "training FLOPs" and spec != reference else None
    if match == "tokens" and spec != reference:  # the steps are the baseline's
        config = run_config(reference, values, budget)
        check_settings(spec, config)
        return config
    return run_config(spec, values, budget, baseline)


@contextmanager
def _collected(problems: list[Problem], place: str | None = None) -> Iterator[None]:
    """The body ends where it raises, with its problems collected."""
    try:
        yield
    except RinscError as error:
        problems += [
            dataclasses.replace(problem, place=place if problem.place is None else problem.place)
            for problem in error.problems
        ]


def _without_repeats(problems: Sequence[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))
