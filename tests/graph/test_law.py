"""Drawn rounds: the draws follow the law, and the law's expectations are those of its draws."""

from __future__ import annotations

import itertools
import math
import random
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.graph import unroll
from rinsc.graph.law import (
    Choice,
    Fixed,
    PoissonLognormal,
    RoundsLaw,
    Skipped,
    Uniform,
    draw_rounds,
    drawn_loops,
    loop_law,
)
from rinsc.graph.rounds import MAX_ROUNDS
from rinsc.syntax.options import sampler_fault
from rinsc.syntax.tree import Call
from tests.graph.graphs import graph_of

DRAWS = 20_000
FINITE: list[RoundsLaw] = [
    Fixed(3),
    Skipped(1, 0.5),
    Skipped(5, 0.25),
    Skipped(9, 0.7),
    Uniform(1, 4),
    Uniform(3, 3),
    Choice((1, 2, 4)),
    Choice((2, 2, 7)),
]
POISSON: list[RoundsLaw] = [
    PoissonLognormal(1, 0.5),
    PoissonLognormal(4, 0.0),
    PoissonLognormal(32, 0.5),
    PoissonLognormal(6.5, 1.0),
]


def draws(law: RoundsLaw, seed: int = 11, count: int = DRAWS) -> list[int]:
    generator = random.Random(seed)
    return [law.draw(generator) for _ in range(count)]


def fits(drawn: Iterable[int], pmf: Mapping[int, Fraction]) -> bool:
    """Pearson's chi-square test, passed unless the statistic is beyond six deviations."""
    counts = Counter(drawn)
    if not counts.keys() <= pmf.keys():
        return False
    total = counts.total()
    statistic = sum((counts[r] - total * float(p)) ** 2 / (total * p) for r, p in pmf.items() if p)
    freedom = len(pmf) - 1
    return statistic <= freedom + 6 * math.sqrt(2 * freedom) + 6


@pytest.mark.parametrize("law", FINITE, ids=repr)
def test_draws_follow_the_law(law: RoundsLaw) -> None:
    assert law.pmf is not None
    assert sum(law.pmf.values()) == 1
    assert fits(draws(law), law.pmf)
    assert law.largest == max(law.pmf)


def test_another_law_would_be_seen() -> None:
    for law, other in ((Skipped(5, 0.25), Skipped(5, 0.3)), (Uniform(1, 4), Choice((1, 2, 3)))):
        assert other.pmf is not None
        assert not fits(draws(law), other.pmf)


@given(
    rounds=st.integers(1, 7), skip=st.sampled_from([0.1, 0.25, 0.5, 0.9]), most=st.integers(1, 9)
)
def test_skipping_is_a_coin_for_each_round_after_the_first(
    rounds: int, skip: float, most: int
) -> None:
    law = Skipped(rounds, skip)
    chance = {True: Fraction(str(skip)), False: 1 - Fraction(str(skip))}
    mean = capped = Fraction(0)
    for skipped in itertools.product((True, False), repeat=rounds - 1):
        probability = math.prod((chance[each] for each in skipped), start=Fraction(1))
        run = 1 + skipped.count(False)
        mean += run * probability
        capped += min(run, most) * probability
    assert law.mean == mean
    assert law.mean_upto(most) == capped


@pytest.mark.parametrize("law", FINITE + POISSON, ids=repr)
@pytest.mark.parametrize("most", [1, 2, 8, MAX_ROUNDS])
def test_expectations_are_means_of_draws(law: RoundsLaw, most: int) -> None:
    drawn = [min(rounds, most) for rounds in draws(law)]
    error = np.std(drawn) / math.sqrt(DRAWS)
    assert abs(np.mean(drawn) - float(law.mean_upto(most))) <= 6 * error + 1 / DRAWS
    if most == MAX_ROUNDS:
        assert float(law.mean) == pytest.approx(float(law.mean_upto(most)), rel=1e-4)


@pytest.mark.parametrize(("mean", "sigma"), [(4, 0.25), (32, 0.5), (2.5, 1.0)])
@pytest.mark.parametrize("most", [1, 2, 5, 16])
def test_the_quadrature_is_exact_to_nine_digits(mean: float, sigma: float, most: int) -> None:
    """Against Gauss and Hermite's rule, and the tail P(rounds ≥ n) summed over n."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(180)
    rates = np.exp(np.log(mean - 1) - sigma**2 / 2 + sigma * nodes)
    expected = 0.0
    below = np.zeros_like(rates)
    term = np.exp(-rates)
    for arrivals in range(most):
        expected += float((weights * (1 - below)).sum() / weights.sum())
        below += term
        term = term * rates / (arrivals + 1)
    assert float(PoissonLognormal(mean, sigma).mean_upto(most)) == pytest.approx(expected, abs=1e-9)


def test_the_expectation_is_the_mean_that_was_given() -> None:
    assert float(PoissonLognormal(32, 0.5).mean_upto(MAX_ROUNDS)) == pytest.approx(32, abs=1e-9)
    assert set(draws(PoissonLognormal(1, 0.5), count=50)) == {1}


def test_draws_are_cut_to_the_most_rounds_that_run() -> None:
    drawn = draws(PoissonLognormal(900, 0.8), count=200)
    assert max(drawn) == MAX_ROUNDS
    assert min(drawn) < MAX_ROUNDS


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("A^3B", Fixed(3)),
        ("A^3{skip=0.5}B", Skipped(3, 0.5)),
        ("A^3{sample=uniform(2, 5)}B", Uniform(2, 5)),
        ("A^3{sample=choice(1, 2, 4)}B", Choice((1, 2, 4))),
        ("A^32{sample=poisson_lognormal(32, 0.5)}B", PoissonLognormal(32, 0.5)),
    ],
)
def test_options_say_the_law(text: str, law: RoundsLaw) -> None:
    graph = graph_of(text)
    assert [loop_law(loop) for loop in graph.loops()] == [law]
    assert len(list(drawn_loops(graph))) == (law != Fixed(3))


def test_what_is_unrolled_draws_nothing() -> None:
    graph = unroll(graph_of("A^3{skip=0.5, adapter=scale}B"), 2)
    assert [loop_law(loop) for loop in graph.loops()] == [Fixed(2)]
    assert draw_rounds(graph, 0, 0) == {}
    assert not list(drawn_loops(graph))


def test_seed_and_step_alone_decide() -> None:
    graph = graph_of("((A^4{skip=0.5})B)^9{sample=uniform(1, 9)}C^5")
    first = [draw_rounds(graph, 3, step) for step in range(50)]
    random.seed(99)
    assert [draw_rounds(graph, 3, step) for step in range(50)] == first
    assert [draw_rounds(graph, 4, step) for step in range(50)] != first
    assert len({tuple(rounds.values()) for rounds in first}) > 10
    assert {tuple(rounds) for rounds in first} == {("AB", "A", "C")}
    assert {rounds["C"] for rounds in first} == {5}


def test_draws_stay_what_they_are() -> None:
    """A run that was begun goes on with the same rounds, whatever is installed by then."""
    graph = graph_of("(A^8{sample=poisson_lognormal(8, 0.5)}B)^4{skip=0.25}")
    found = [tuple(draw_rounds(graph, 5, step).values()) for step in range(6)]
    assert found == [(3, 12), (4, 4), (4, 2), (3, 4), (4, 3), (3, 7)]


def test_steps_draw_independently() -> None:
    graph = graph_of("(A^3{skip=0.5})B(C^3{skip=0.5})")
    drawn = [draw_rounds(graph, 0, step) for step in range(4000)]
    pairs = Counter((rounds["A"], rounds["C"]) for rounds in drawn)
    pmf = Skipped(3, 0.5).pmf
    joint = {10 * a + c: left * right for a, left in pmf.items() for c, right in pmf.items()}
    assert fits([10 * a + c for (a, c) in pairs.elements()], joint)
    following = [10 * left["A"] + right["A"] for left, right in itertools.pairwise(drawn)]
    assert fits(following, joint)


def admitted_mean(sigma: float) -> int:
    """The largest mean that the notation takes at this sigma."""
    taken = [
        mean
        for mean in range(1, MAX_ROUNDS + 1)
        if sampler_fault(Call("poisson_lognormal", (mean, sigma))) is None
    ]
    return max(taken)


@pytest.mark.parametrize("sigma", [0.0, 0.1, 0.25, 0.5])
def test_the_largest_mean_that_is_taken_is_the_expectation_after_cutting(sigma: float) -> None:
    mean = admitted_mean(sigma)
    law = PoissonLognormal(mean, sigma)
    assert float(law.mean_upto(MAX_ROUNDS)) == pytest.approx(mean, rel=1e-6)
    assert max(draws(law, count=1000)) < MAX_ROUNDS


def test_a_mean_beside_the_most_rounds_would_be_cut() -> None:
    assert sampler_fault(Call("poisson_lognormal", (1000, 0)))
    assert float(PoissonLognormal(1000, 0.0).mean_upto(MAX_ROUNDS)) < 1000 - 0.1


def test_long_repeats_have_their_expectation_at_once() -> None:
    """With 16 digits in the probability, whose powers are whole numbers of thousands of digits."""
    law = Skipped(1000, 0.1234567890123457)
    start = time.perf_counter()
    mean = law.mean_upto(999)
    assert time.perf_counter() - start < 0.5
    never = (1 - Fraction("0.1234567890123457")) ** 999  # all 1000 rounds
    assert mean == law.mean - never
    assert law.largest == 1000
