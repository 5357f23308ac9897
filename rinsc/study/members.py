"""The models of a study: each different one once, under the name it is given there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Self

from rinsc.cost import stored_params
from rinsc.errors import Problem, RinscError, SpecError, plural
from rinsc.extras import zoo_file
from rinsc.fingerprints import fingerprint
from rinsc.graph import BlockGraph, build_graph
from rinsc.scalars import whole
from rinsc.spec import ModelSpec, model_spec, with_signature
from rinsc.spec.model import require_spec
from rinsc.study.description import LIMITS, Description
from rinsc.study.matching import SIZED, matched_size, size_words
from rinsc.syntax import Signature, normal_form
from rinsc.variants.costed import Limits
from rinsc.variants.enumerate import costed_members, family, variants


@dataclass(frozen=True)
class Variant:
    """A model of a study, under the name it is given there."""

    name: str
    spec: ModelSpec
    parameters: int

    @classmethod
    def of(cls, name: str, spec: ModelSpec) -> Self:
        graph = build_graph(spec)
        variant = cls(name, spec, stored_params(graph))
        vars(variant)["graph"] = graph  # as if it had been asked for: it takes time
        return variant

    @cached_property
    def graph(self) -> BlockGraph:
        return build_graph(self.spec)


def base_spec(description: Description) -> ModelSpec:
    """The dimensions of the study, with its baseline as the signature."""
    dimensions = dict(description.model)
    if "signature" in dimensions:
        hint = "name signatures in 'variants' and 'baseline'"
        raise SpecError("bad-study", "'model' has dimensions alone", place="signature", hint=hint)
    spec = model_spec(_signature(description.baseline), **dimensions)
    require_spec(spec)
    return spec


def distinct_variants(
    description: Description, base: ModelSpec, problems: list[Problem], most: int
) -> tuple[list[Variant], list[str]]:
    """Each different model once, the baseline first, and notes of those left out.

    An enumeration of more than ``most`` is a problem.
    """
    notes: list[str] = []
    members: list[str] = []
    for name in description.families:
        with collected(problems):
            sized = costed_members(family(name), base, notes.append, strict=True)
            members += [each.signature for each, _ in sized]
    for table in description.enumerate:
        with collected(problems, "[[enumerate]]"):
            members += _enumerated(table, base, most)
    left_out: list[Problem] = []
    named = dict.fromkeys([description.baseline, *description.variants])
    by_fingerprint: dict[str, Variant] = {}
    for name in dict.fromkeys([*named, *members]):
        spec = None
        with collected(problems, name):
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
        fitted = None
        with collected(problems if name in named else left_out, name):
            fitted = _sized(name, spec, description, base, notes)
        if fitted is not None:
            by_fingerprint[key] = fitted
    notes += [f"{problem.place} is left out: {problem.message}" for problem in left_out]
    return list(by_fingerprint.values()), notes


def _enumerated(table: Mapping[str, Any], base: ModelSpec, most: int) -> list[str]:
    """The signatures that a table of an enumeration stands for, as `rinsc zoo enumerate` has
    them."""
    bounds = Limits(**{key: table[key] for key in LIMITS if key in table})
    limit = whole(table.get("limit", most + 1))
    strict = table.get("strict", True)
    if limit is None or limit < 1 or not isinstance(strict, bool):
        hint = "write limit = 20 and strict = false, or leave them out"
        message = "limit must be a whole number of at least 1, strict true or false"
        raise SpecError("bad-study", message, hint=hint)
    sizes = table["letters"], table["length"], table.get("degree", 1)
    every = variants(base, *sizes, bounds, strict=strict)
    signatures = [item.signature for item in islice(every, min(limit, most + 1))]
    if len(signatures) > most:
        message = f"it makes more variants than the {most:,} that a study has room for"
        hint = "narrow it, or give limit = 20"
        raise SpecError("too-many-runs", message, hint=hint)
    if not signatures:
        hint = "widen its bounds, or set strict = false"
        raise SpecError("no-variants", "no variant is within its bounds", hint=hint)
    return signatures


def _sized(
    name: str, spec: ModelSpec, description: Description, base: ModelSpec, notes: list[str]
) -> Variant:
    """The variant, made wider or narrower where it must be as large or as dear as the baseline."""
    if spec != base and description.match in SIZED:
        fitted = matched_size(spec, base, description.match)
        if fitted != spec:
            notes.append(f"{name} has {size_words(fitted)} to match {description.match}")
        spec = fitted
    return Variant.of(name, spec)


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


@contextmanager
def collected(problems: list[Problem], place: str | None = None) -> Iterator[None]:
    """The body ends where it raises, with its problems collected."""
    try:
        yield
    except RinscError as error:
        problems += [
            dataclasses.replace(problem, place=place if problem.place is None else problem.place)
            for problem in error.problems
        ]
