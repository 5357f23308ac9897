"""The models of a study: each different one once, under the name it is given there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rinsc.cost import stored_params
from rinsc.errors import Problem, RinscError, SpecError, plural
from rinsc.extras import zoo_file
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec, model_spec, with_signature
from rinsc.spec.model import require_spec
from rinsc.study.description import Description
from rinsc.syntax import Signature, normal_form
from rinsc.variants.enumerate import costed_members, family


@dataclass(frozen=True)
class Variant:
    """A model of a study, under the name it is given there."""

    name: str
    spec: ModelSpec
    parameters: int


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
    description: Description, base: ModelSpec, problems: list[Problem]
) -> tuple[list[Variant], list[str]]:
    """Each different model once, the baseline first, and notes of those left out."""
    notes: list[str] = []
    members: list[str] = []
    for name in description.families:
        with collected(problems):
            sized = costed_members(family(name), base, notes.append, strict=True)
            members += [each.signature for each, _ in sized]
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
