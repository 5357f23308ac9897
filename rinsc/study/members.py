"""The models of a study: each different one once, under the name it is given there.

Models are made as large, or as dear to run, as the baseline by changing their width and MLP width.
Layers, heads and schedule stay. The width goes up or down by as little as is needed, and the width
of the MLP then takes up the rest:

    AB   12 layers executed, width 64, mlp_width 176
    A^2B 18 layers executed, width 56, mlp_width 127: forward FLOPs within 1 %
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Self

from rinsc.cost import forward_flops, stored_params
from rinsc.errors import Problem, RinscError, SpecError, plural
from rinsc.extras import zoo_file
from rinsc.fingerprints import fingerprint
from rinsc.graph import BlockGraph, TowersGraph, build_graph
from rinsc.scalars import whole
from rinsc.spec import ModelSpec, TowersSpec, model_spec, with_signature
from rinsc.spec.towers import AnySpec, with_towers
from rinsc.study.description import LIMITS, Description
from rinsc.syntax import Signature, normal_form
from rinsc.syntax.tree import Towers, to_text
from rinsc.variants.costed import Limits
from rinsc.variants.enumerate import costed_members, family, variants

TOLERANCE = 0.01
STRETCH = 2.0  # most that the MLP width changes beside the width
MOST_WIDTHS = 64  # that are tried

Amount = Callable[[ModelSpec], int]


def _parameters(spec: ModelSpec) -> int:
    return stored_params(build_graph(spec))


def _inference_flops(spec: ModelSpec) -> int:
    return forward_flops(build_graph(spec), spec.context).total


SIZED: Mapping[str, Amount] = {
    "parameters": _parameters,
    "inference FLOPs": _inference_flops,
}


def size_words(spec: ModelSpec) -> str:
    return f"width {spec.width} and mlp_width {spec.mlp_width}"


def matched_size(spec: ModelSpec, baseline: ModelSpec, match: str) -> ModelSpec:
    """The model with as many parameters, or forward FLOPs on a sequence as long as the context, as
    the baseline, to within 1 %. Raises SpecError where no width has them."""
    amount = SIZED[match]
    target = amount(baseline)
    if _is_near(amount(spec), target):
        return spec
    for wide in _widths(spec, grows=amount(spec) < target):
        fitted = _with_mlp(wide, amount, target)
        if fitted is not None:
            return fitted
    message = f"no width gives it the {match} of the baseline to within {TOLERANCE:.0%}"
    hint = 'take more width or fewer rounds, or match = "training FLOPs"'
    raise SpecError("cannot-match", message, hint=hint)


def _is_near(value: int, target: int) -> bool:
    return abs(value - target) <= TOLERANCE * target


def _widths(spec: ModelSpec, *, grows: bool) -> Iterator[ModelSpec]:
    """The model in its own width, and in others ever further from it, the MLP in proportion."""
    step = 2 * spec.heads * (1 if grows else -1)
    for number in range(MOST_WIDTHS):
        width = spec.width + number * step
        if width <= 0:
            return
        mlp_width = max(1, round(spec.mlp_width * width / spec.width))
        try:
            yield dataclasses.replace(spec, width=width, mlp_width=mlp_width)
        except RinscError:  # a width that some setting of a kind does not take
            continue


def _with_mlp(spec: ModelSpec, amount: Amount, target: int) -> ModelSpec | None:
    """The model with the MLP width that comes nearest, None where that is not near."""
    low, high = max(1, int(spec.mlp_width / STRETCH)), int(spec.mlp_width * STRETCH)

    def at(mlp_width: int) -> ModelSpec:
        return dataclasses.replace(spec, mlp_width=mlp_width)

    if not amount(at(low)) <= target <= amount(at(high)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if amount(at(middle)) <= target:
            low = middle
        else:
            high = middle
    nearest = min((at(low), at(high)), key=lambda model: abs(amount(model) - target))
    return nearest if _is_near(amount(nearest), target) else None


@dataclass(frozen=True)
class Variant:
    """A model of a study, under the name it is given there."""

    name: str
    spec: AnySpec
    parameters: int

    @classmethod
    def of(cls, name: str, spec: AnySpec) -> Self:
        graph = build_graph(spec)
        variant = cls(name, spec, stored_params(graph))
        vars(variant)["graph"] = graph  # as if it had been asked for: it takes time
        return variant

    @cached_property
    def graph(self) -> BlockGraph | TowersGraph:
        return build_graph(self.spec)


def base_spec(description: Description) -> AnySpec:
    """The dimensions of the study, with its baseline as the signature."""
    dimensions = dict(description.model)
    if "signature" in dimensions:
        hint = "name signatures in 'variants' and 'baseline'"
        raise SpecError("bad-study", "'model' has dimensions alone", place="signature", hint=hint)
    return model_spec(_signature(description.baseline), **dimensions)


def distinct_variants(
    description: Description, base: AnySpec, problems: list[Problem], most: int
) -> tuple[list[Variant], list[str]]:
    """Each different model once, the baseline first, and notes of those left out.

    An enumeration of more than ``most`` is a problem.
    """
    notes: list[str] = []
    members: list[str] = []
    for name in description.families:
        with collected(problems):
            one = _single(base, "a family")
            sized = costed_members(family(name), one, notes.append, strict=True)
            members += [member.signature for member, _ in sized]
    for table in description.enumerate:
        with collected(problems, "[[enumerate]]"):
            members += _enumerated(table, _single(base, "an enumeration"), most)
    left_out: list[Problem] = []
    named = dict.fromkeys([description.baseline, *description.variants])
    by_fingerprint: dict[str, Variant] = {}
    for name in dict.fromkeys([*named, *members]):
        spec = None
        with collected(problems, name):
            spec = _of_signature(base, _signature(name))
        if spec is None:
            continue
        for tower in spec.specs if isinstance(spec, TowersSpec) else (spec,):
            if not _is_even(tower):
                layers = plural(tower.layers, "layer")
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
    name: str, spec: AnySpec, description: Description, base: AnySpec, notes: list[str]
) -> Variant:
    """The variant, made wider or narrower where it must be as large or as dear as the baseline."""
    if spec != base and description.match in SIZED:
        what = f"a match of {description.match}"
        fitted = matched_size(_single(spec, what), _single(base, what), description.match)
        if fitted != spec:
            notes.append(f"{name} has {size_words(fitted)} to match {description.match}")
        spec = fitted
    return Variant.of(name, spec)


def _single(spec: AnySpec, what: str) -> ModelSpec:
    """The spec of a single tower; raises SpecError for one of several."""
    if isinstance(spec, ModelSpec):
        return spec
    message = f"{what} is of single models, and {spec.text:.80} has several towers"
    hint = 'name each model in \'variants\', with match = "training FLOPs" or "tokens"'
    raise SpecError("several-towers", message, hint=hint)


def _of_signature(base: AnySpec, signature: str | Signature | Towers) -> AnySpec:
    """Another signature at the dimensions of the study; raises SpecError."""
    if isinstance(base, TowersSpec):
        if isinstance(signature, Signature):
            return with_towers(base, to_text(signature))  # which says that it names no towers
        return with_towers(base, signature)
    if isinstance(signature, Towers):
        return with_signature(base, to_text(signature))
    return with_signature(base, signature)


def _signature(name: str) -> str | Signature | Towers:
    """The signature that a name stands for; a file and an entry of the zoo have dimensions besides,
    which a study does not take."""
    if not name.endswith(".toml") and zoo_file(name) is None:
        return name
    other: AnySpec = model_spec(name)
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
