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
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rinsc.errors import Problem, SpecError, plural
from rinsc.graph.law import drawn_loops
from rinsc.objectives import objective_of_data
from rinsc.scalars import rounded_flops
from rinsc.spec import spec_to_toml
from rinsc.storage.files import short_digest
from rinsc.study.description import Description, Match, RateRule, checked_description, read_study
from rinsc.study.members import Variant, base_spec, collected, distinct_variants
from rinsc.study.rates import Tuning
from rinsc.training.budget import check_settings, run_config, spending
from rinsc.training.config import TrainConfig, config_to_toml

VERSION = 2  # of the file
NAMES = 1  # of the names of runs, which a later version of the file leaves as they are
MOST_RUNS = 100_000


@dataclass(frozen=True)
class PlannedRun:
    """One run: ``name`` is a hash of everything that decides it.

    ``trial`` numbers the runs that tune a learning rate. Where trials decide the rate of a run,
    ``tuned_at`` is their budget, and its settings hold the rate that the grid is around.
    """

    name: str
    variant: str
    budget: str
    seed: int
    config: TrainConfig
    training_flops: int
    trial: int | None = None
    tuned_at: str | None = None

    @property
    def words(self) -> str:
        """Which one it is, for a person."""
        trial = "" if self.trial is None else f", trial {self.trial + 1} of its learning rate"
        return f"{self.variant} at {self.budget}, seed {self.seed}{trial}"


@dataclass(frozen=True)
class Plan:
    """All runs of a study, in the order in which they are begun: cheap ones first.

    ``runs`` are compared with each other. ``trials`` tune the learning rate of each variant before
    them, where ``tuning`` says how.
    """

    title: str
    baseline: str
    data: str
    match: Match
    variants: tuple[Variant, ...]
    runs: tuple[PlannedRun, ...]
    notes: tuple[str, ...] = ()
    tuning: Tuning | None = None
    trials: tuple[PlannedRun, ...] = ()

    @property
    def jobs(self) -> tuple[PlannedRun, ...]:
        """Everything that is trained, trials first."""
        return (*self.trials, *self.runs)

    @property
    def digest(self) -> str:
        """Of the runs, and so of the plan."""
        return short_digest("\n".join(run.name for run in self.jobs))

    @property
    def training_flops(self) -> int:
        return sum(run.training_flops for run in self.jobs)

    def variant(self, name: str) -> Variant:
        """The variant of this name."""
        return next(item for item in self.variants if item.name == name)

    @property
    def total(self) -> str:
        """All of it in a line."""
        trials = f" after {plural(len(self.trials), 'trial')}" if self.trials else ""
        return (
            f"{plural(len(self.runs), 'run')}{trials} on {self.data}, "
            f"{rounded_flops(self.training_flops)} of training; plan {self.digest}"
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
            "tuning": None if self.tuning is None else dataclasses.asdict(self.tuning),
            "trials": list(map(_run_facts, self.trials)),
            "runs": list(map(_run_facts, self.runs)),
            "notes": list(self.notes),
        }


def _run_facts(run: PlannedRun) -> dict[str, Any]:
    facts = {key: value for key, value in vars(run).items() if key != "config"}
    return {**facts, "settings": config_to_toml(run.config)}


def plan_study(source: str | Path | Mapping[str, Any], *, rate: RateRule | None = None) -> Plan:
    """The plan of a TOML file, or of its contents; ``rate`` wins over what is written there.

    Raises SpecError with every mistake of every variant and setting at once.
    """
    place = None if isinstance(source, Mapping) else str(source)
    values = dict(source) if isinstance(source, Mapping) else read_study(Path(source))
    description = checked_description(values if rate is None else {**values, "rate": rate}, place)
    problems: list[Problem] = []
    base = base_spec(description)
    most = MOST_RUNS // max(1, len(description.budgets) * len(description.seeds))
    variants, notes = distinct_variants(description, base, problems, most)
    reference = next((item for item in variants if item.name == description.baseline), None)
    tuning = None
    trials: list[PlannedRun] = []
    runs: list[PlannedRun] = []
    if reference is not None:
        maker = _Maker(description, reference, problems)
        tuning = maker.tuning()
        _check_count(len(variants), description, tuning, place)
        for variant in variants:
            runs += maker.runs(variant, tuning)
            trials += [] if tuning is None else maker.trials(variant, tuning)
    problems += _equal_runs([*trials, *runs])
    if problems:
        raise SpecError.of(*_without_repeats(problems))
    if len(description.seeds) == 1 and len(variants) > 1:
        notes.append("one seed: no interval and no ranking, which need a second one")
    if len(description.budgets) > 1 and any(run.config.schedule == "wsd" for run in runs):
        notes.append(
            "with the schedule wsd the budgets of a seed share their first steps and their noise: "
            "intervals of scaling laws are too narrow"
        )
    if tuning is None and len(variants) > 1:
        notes.append(
            f"one learning rate for all variants, {runs[0].config.learning_rate:g}: it may suit "
            "some better than others; a table [tuning] tunes it for each"
        )
    return Plan(
        *(description.title, description.baseline, description.data, description.match),
        variants=tuple(variants),
        runs=tuple(sorted(runs, key=_order)),
        notes=tuple(notes),
        tuning=tuning,
        trials=tuple(sorted(trials, key=_order)),
    )


def _order(run: PlannedRun) -> tuple[int, ...]:
    return (run.trial or 0, run.training_flops, run.seed)


def _equal_runs(runs: Sequence[PlannedRun]) -> Iterator[Problem]:
    """Budgets that come to one run: it would count twice."""
    by_name: dict[str, PlannedRun] = {}
    for run in runs:
        other = by_name.setdefault(run.name, run)
        if other is not run:
            message = f"the budgets {other.budget} and {run.budget} give {run.variant} the same run"
            hint = "leave one of them out, or move them apart"
            yield Problem("same-run", message, place=run.variant, hint=hint)


def _check_count(
    variants: int, description: Description, tuning: Tuning | None, place: str | None
) -> None:
    count = variants * len(description.budgets) * len(description.seeds)
    if tuning is not None:
        count += variants * tuning.trials * len(tuning.budgets) * len(tuning.seeds)
    if count > MOST_RUNS:
        message = f"this makes {count:,} runs, and a study has at most {MOST_RUNS:,}"
        hint = "take fewer variants, budgets or seeds"
        raise SpecError("too-many-runs", message, place=place, hint=hint)


@dataclass(frozen=True)
class _Maker:
    """Makes the runs of a variant, and adds what does not fit to ``problems``."""

    description: Description
    reference: Variant
    problems: list[Problem]
    _known: dict[tuple[str, str, int | None], tuple[TrainConfig, int]] = field(default_factory=dict)
    _tomls: dict[str, str] = field(default_factory=dict)

    @cached_property
    def _settings(self) -> Mapping[str, Any]:
        """Those of all runs; the data says what is learned from it, where nothing else does."""
        return {
            "objective": objective_of_data(self.description.data),
            **self.description.settings,
        }

    @cached_property
    def _budget_flops(self) -> dict[str, int]:
        """What the baseline spends at each budget, of the study and of its tuning."""
        table = self.description.tuning or {}
        flops = {}
        for text in dict.fromkeys([*self.description.budgets, *table.get("budgets", ())]):
            for run in self._at(self.reference, text, self.description.seeds[:1]):
                flops[text] = run.training_flops
        return flops

    def tuning(self) -> Tuning | None:
        """How rates are tuned, by default at the budget that is smallest for the baseline."""
        description = self.description
        if not description.is_tuned:
            return None
        flops = self._budget_flops
        if not flops:  # no budget fits, which has been said
            return None
        base = run_config(self.reference.spec, self._settings).learning_rate
        smallest = min(description.budgets, key=lambda text: flops.get(text, math.inf))
        return description.tuning_around(base, smallest)

    def runs(self, variant: Variant, tuning: Tuning | None) -> Iterator[PlannedRun]:
        """The runs that are ranked."""
        for text in self.description.budgets:
            at = None if tuning is None else self._tuned_at(text, tuning)
            rule = () if tuning is None else (*tuning.rule, at)
            for run in self._at(variant, text, self.description.seeds, rule):
                yield dataclasses.replace(run, tuned_at=at)

    def trials(self, variant: Variant, tuning: Tuning) -> Iterator[PlannedRun]:
        """The runs that tune its learning rate; those after the first rates depend on earlier
        ones."""
        for text in tuning.budgets:
            for number in range(tuning.trials):
                is_first = number < len(tuning.rates)
                changes = {"learning_rate": tuning.rates[number]} if is_first else {}
                rule = (*tuning.rule, text, number)
                for run in self._at(variant, text, tuning.seeds, rule, changes):
                    at = None if is_first else text
                    yield dataclasses.replace(run, trial=number, tuned_at=at)

    def _tuned_at(self, budget: str, tuning: Tuning) -> str:
        """The largest budget of the trials that is no larger, or the smallest one there is."""
        flops = self._budget_flops
        by_size = sorted(tuning.budgets, key=lambda text: flops.get(text, 0))
        fitting = [text for text in by_size if flops.get(text, 0) <= flops.get(budget, 0)]
        return (fitting or by_size[:1])[-1]

    def _at(
        self,
        variant: Variant,
        text: str,
        seeds: Sequence[int],
        rule: tuple[object, ...] = (),
        changes: Mapping[str, Any] = MappingProxyType({}),
    ) -> Iterator[PlannedRun]:
        """A run for each seed; ``rule`` is what decides it beside its settings."""
        data = self.description.data
        for seed in seeds:
            planned = None
            with collected(self.problems, f"{variant.name} at {text}"):
                planned = self._planned(variant, text, seed)
            if planned is None:
                return  # the other seeds have the same mistake
            base, flops = planned
            config = dataclasses.replace(base, seed=seed, **changes)
            decisive = [NAMES, self._toml(variant), config_to_toml(config), data]
            name = short_digest(json.dumps([*decisive, rule] if rule else decisive))
            yield PlannedRun(name, variant.name, text, seed, config, flops)

    def _planned(self, variant: Variant, text: str, seed: int) -> tuple[TrainConfig, int]:
        """Settings and FLOPs at a budget, which are the same for every seed that draws nothing."""
        key = variant.name, text, seed if self._draws(variant) else None
        if key not in self._known:
            values = {**self._settings, "seed": seed}
            match = self.description.match
            config = _config(variant, self.reference, values, text, match)
            self._known[key] = config, spending(config, variant.graph).training_flops
        return self._known[key]

    def _draws(self, variant: Variant) -> bool:
        return any(any(drawn_loops(item.graph)) for item in (variant, self.reference))

    def _toml(self, variant: Variant) -> str:
        if variant.name not in self._tomls:
            self._tomls[variant.name] = spec_to_toml(variant.spec)
        return self._tomls[variant.name]


def _config(
    variant: Variant,
    reference: Variant,
    values: Mapping[str, Any],
    budget: str,
    match: Match,
) -> TrainConfig:
    """The settings of a run: as many steps as the budget of the baseline pays for."""
    if "steps" in values:
        hint = "give the steps in 'budgets', as \"1000steps\""
        raise SpecError("bad-study", "'settings' takes no steps", place="steps", hint=hint)
    spec, is_reference = variant.spec, variant.spec == reference.spec
    if match == "tokens" and not is_reference:  # the steps are the baseline's
        config = run_config(reference.spec, values, budget, graph=reference.graph)
        check_settings(spec, config, variant.graph)
        return config
    baseline = None if is_reference else reference.graph
    return run_config(spec, values, budget, baseline, graph=variant.graph)


def _without_repeats(problems: Sequence[Problem]) -> list[Problem]:
    return list(dict.fromkeys(problems))
