"""Enumerations: every model once, none twice, each with the costs of its spec."""

from __future__ import annotations

import itertools
import math
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import find, given
from hypothesis import strategies as st

from rinsc.cost import cost_report
from rinsc.errors import SpecError
from rinsc.fingerprints import fingerprint
from rinsc.spec import ModelSpec, model_spec, with_signature
from rinsc.spec.kinds import KINDS
from rinsc.syntax import identity, parse
from rinsc.syntax.normal import spread
from rinsc.variants.costed import Limits, costed
from rinsc.variants.enumerate import Word, at_degree, atoms, variants, words

BASE = model_spec("A", preset="tiny")
LAYERS = (4, 7, 12)  # some that divide, some that do not

small_words = st.lists(st.integers(0, 2), min_size=1, max_size=6).map(lambda w: first_use(w))


def first_use(word: list[int]) -> Word:
    """The word renamed so that blocks are numbered in order of first use."""
    numbers: dict[int, int] = {}
    return tuple(numbers.setdefault(block, len(numbers)) for block in word)


def schedule(word: Word, degree: int, layers: int) -> tuple[int, ...] | None:
    """Physical layers in order, numbered by first use; None where a part would have none."""
    path: list[tuple[int, ...]] = [()]
    for _ in range(degree):
        path = [(*outer, block) for outer in path for block in word]
    parts = list(dict.fromkeys(path))
    if len(parts) > layers:
        return None
    share, rest = divmod(layers, len(parts))
    sizes = {part: share + (index < rest) for index, part in enumerate(parts)}
    return first_use([1000 * parts.index(part) + i for part in path for i in range(sizes[part])])


def text(word: Word, degree: int) -> str:
    return "".join("ABCDEFGH"[block] for block in word) + f"@{degree}"


@given(small_words, small_words, st.sampled_from(LAYERS))
def test_atoms_are_equal_exactly_when_the_layers_are(one: Word, other: Word, layers: int) -> None:
    same = [atoms(word, spread(layers, max(word) + 1)) for word in (one, other)]
    assert (same[0] == same[1]) == (schedule(one, 1, layers) == schedule(other, 1, layers))


def test_atoms_without_their_sizes_are_caught() -> None:
    find(
        st.tuples(small_words, small_words),
        lambda pair: (
            atoms(pair[0], (1, 1, 1))[0] == atoms(pair[1], (1, 1, 1))[0]
            and schedule(pair[0], 1, 7) != schedule(pair[1], 1, 7)
        ),
    )


@given(small_words, st.integers(1, 2), st.sampled_from(LAYERS))
def test_the_atoms_say_what_identity_says(word: Word, degree: int, layers: int) -> None:
    if schedule(word, degree, layers) is None:
        return
    flat = at_degree(word, degree)
    found, sizes = atoms(flat, spread(layers, max(flat) + 1))
    same = identity(parse(text(word, degree)), layers)
    assert [visit.atom for visit in same.word] == list(found)  # type: ignore[union-attr]
    assert [int(size.constant) for size in same.sizes] == list(sizes)


def test_words_are_those_of_all_letters_up_to_renaming() -> None:
    every = {
        first_use(list(word))
        for length in range(1, 6)
        for word in itertools.product(range(3), repeat=length)
    }
    found = [word for visits in range(1, 6) for word in words(visits, (1, 2, 3))]
    assert len(found) == len(every)
    assert set(found) == every


@given(st.integers(1, 6), st.sets(st.integers(1, 7), max_size=4))
def test_words_have_the_numbers_of_blocks_that_are_asked_for(visits: int, blocks: set[int]) -> None:
    every = words(visits, range(1, 7))
    assert list(words(visits, sorted(blocks))) == [w for w in every if max(w) + 1 in blocks]


@pytest.mark.parametrize("layers", LAYERS)
def test_every_model_comes_and_none_comes_twice(layers: int) -> None:
    base = replace(BASE, layers=layers)
    found = [schedule(v.word, v.degree, layers) for v in variants(base, 3, 5, 2)]
    every = {
        schedule(first_use(list(word)), degree, layers)
        for length in range(1, 6)
        for word in itertools.product(range(3), repeat=length)
        for degree in (1, 2)
    }
    assert len(set(found)) == len(found)
    assert set(found) == every - {None}


def test_no_two_have_the_same_fingerprint() -> None:
    for layers in (9, 12):
        base = replace(BASE, layers=layers)
        prints = [fingerprint(variant.spec(base)) for variant in variants(base, 3, 4, 3)]
        assert len(set(prints)) == len(prints) > 30


@pytest.mark.parametrize("kind", ["llama", "ouro"])  # the second does more in a visit than layers
def test_every_fingerprint_comes(kind: str) -> None:
    base = replace(BASE, layers=5, kind=kind)
    every = {
        fingerprint(replace(base, signature=parse(f"{text}@{degree}")))
        for length in range(1, 5)
        for text in map("".join, itertools.product("AB", repeat=length))
        for degree in (1, 2)
    }
    found = [fingerprint(variant.spec(base)) for variant in variants(base, 2, 4, 2)]
    assert sorted(found) == sorted(every)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_costs_are_those_of_the_spec(kind: str) -> None:
    context = 196 if kind == "siglip_image" else BASE.context  # that of its pictures
    base = replace(BASE, kind=kind, layers=9, context=context)
    for variant in variants(base, 3, 3, 2):
        report = cost_report(variant.spec(base))
        assert variant.parameters == report.stored_params
        assert variant.executed_layers == report.executed_layers
        assert variant.training_flops_per_token == report.training_flops_per_token
        assert variant.costed() == costed(base, variant.signature)


def test_the_cost_ratio_is_that_of_the_word_without_its_head() -> None:
    wide = replace(BASE, vocab_size=1)
    ratios = {v.signature: v.cost_ratio for v in variants(wide, 3, 5)}
    for signature, ratio in {"A^2B": 3 / 2, "A^3B": 2, "AB^2C": 4 / 3, "AB^3C": 5 / 3}.items():
        assert ratios[signature] == pytest.approx(ratio, rel=1e-3)


@pytest.mark.parametrize("layers", [6, 7, 9, 12])
def test_strict_leaves_out_what_does_not_divide(layers: int) -> None:
    base = replace(BASE, layers=layers)
    every = {
        schedule(word, degree, layers)
        for length in range(1, 8)
        for word in words(length, range(1, 8))
        for degree in (1, 2)
        if layers % (max(word) + 1) ** degree == 0 and len(word) ** degree <= 16
    }
    found = [schedule(v.word, v.degree, layers) for v in variants(base, 7, 7, 2, strict=True)]
    assert len(set(found)) == len(found)
    assert every <= set(found)
    for variant in variants(base, 7, 7, 2, strict=True):
        with_signature(base, variant.signature, strict=True)


def brute_force(base: ModelSpec, limits: Limits) -> Iterator[str]:
    for variant in variants(base, 3, 4, 2):
        figures = (variant.parameters, variant.executed_layers, variant.cost_ratio)
        least = (limits.min_parameters, limits.min_layers_executed, limits.min_cost_ratio)
        most = (limits.max_parameters, limits.max_layers_executed, limits.max_cost_ratio)
        if all(low <= x <= high for low, x, high in zip(least, figures, most, strict=True)):
            yield variant.signature


@pytest.mark.parametrize(
    "limits",
    [
        Limits(),
        Limits(min_layers_executed=20, max_layers_executed=24),
        Limits(min_cost_ratio=1.2, max_cost_ratio=1.5),
        Limits(max_parameters=1000),
        Limits(min_parameters=1000, min_cost_ratio=2.0),
        Limits(min_layers_executed=19, max_layers_executed=19),
        Limits(min_layers_executed=19, max_cost_ratio=1.7),
    ],
)
@pytest.mark.parametrize(("layers", "kind"), [(12, "llama"), (7, "llama"), (10, "ouro")])
def test_limits_leave_out_what_is_beyond_them(limits: Limits, layers: int, kind: str) -> None:
    base = replace(BASE, layers=layers, kind=kind)
    found = [variant.signature for variant in variants(base, 3, 4, 2, limits)]
    assert found == list(brute_force(base, limits))


@pytest.mark.parametrize(
    "limits",
    [
        Limits(max_parameters=10),
        Limits(min_parameters=10**12),
        Limits(max_layers_executed=BASE.layers - 1),
        Limits(min_layers_executed=10**9),
        Limits(min_cost_ratio=10**6),
        Limits(max_cost_ratio=0.5),
        Limits(max_layers_executed=BASE.layers, min_cost_ratio=1.5),
    ],
)
def test_an_enumeration_that_yields_nothing_ends_at_once(limits: Limits) -> None:
    start = time.process_time()
    assert list(variants(BASE, 8, 16, 3, limits)) == []
    assert time.process_time() - start < 1


def test_only_words_that_can_be_wanted_are_made() -> None:
    start = time.process_time()
    cheapest = [variant.signature for variant in variants(BASE, 8, 16, 3, Limits(max_cost_ratio=1))]
    assert cheapest == ["A"]
    assert time.process_time() - start < 1


@pytest.mark.parametrize(
    ("bounds", "names"),
    [
        ((0, 3, 1), ["letters"]),
        ((9, 17, 4), ["letters", "length", "degree"]),
        ((2, True, 1), ["length"]),
        ((2, 3, 10**5000), ["degree"]),
    ],
)
def test_bounds_out_of_range(bounds: tuple[Any, Any, Any], names: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        variants(BASE, *bounds)
    assert [problem.place for problem in caught.value.problems] == names
    assert {problem.code for problem in caught.value.problems} == {"bad-bounds"}


@pytest.mark.parametrize(
    "limits",
    [
        {"min_parameters": 2, "max_parameters": 1},
        {"max_layers_executed": -1},
        {"min_cost_ratio": math.nan},
    ],
)
def test_limits_that_nothing_can_meet(limits: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match="empty-range"):
        Limits(**limits)


def test_a_long_enumeration_streams_in_little_memory() -> None:
    stream = variants(replace(BASE, layers=48), 8, 16, 3)
    next(stream)
    tracemalloc.start()
    try:
        for _ in range(20_000):
            next(stream)
        grown, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert grown / 20_000 < 100  # bytes a variant
