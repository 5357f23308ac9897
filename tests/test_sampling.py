"""The shared sampling rule against the distribution it should draw from."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from rinsc.errors import CheckpointError, UsageError
from rinsc.sampling import Sampling, kept_candidates, sample_next

Scores = npt.NDArray[np.float64]

LOGITS = np.array([0.3, 1.7, -2.0, 1.1, 0.9], dtype=np.float32)


def _draw(temperature: float, top_k: int | None, count: int = 4000) -> Counter[int]:
    rng = np.random.default_rng(3)
    sampling = Sampling(temperature, top_k)
    return Counter(sample_next(LOGITS, sampling, rng) for _ in range(count))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.9])
def test_frequencies_follow_the_softmax(temperature: float) -> None:
    weights = np.exp(LOGITS.astype(float) / temperature)
    drawn = _draw(temperature, None)
    for token, share in enumerate(weights / weights.sum()):
        assert abs(drawn[token] / 4000 - share) < 0.03


def test_top_k_keeps_the_most_likely() -> None:
    assert set(_draw(5.0, 2)) == {1, 3}
    assert set(_draw(5.0, 99)) == {0, 1, 2, 3, 4}


def test_temperature_zero_is_greedy_and_draws_nothing() -> None:
    rng = np.random.default_rng(3)
    assert sample_next(LOGITS, Sampling(), rng) == 1
    assert rng.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize("temperature", [1e-300, 1e300])
def test_extreme_temperatures_are_safe(temperature: float) -> None:
    assert sample_next(LOGITS, Sampling(temperature), np.random.default_rng(0)) in range(5)


def test_every_bad_setting_is_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(temperature=float("nan"), top_k=0, seed=-1)
    assert len(caught.value.problems) == 3
    assert all(problem.hint for problem in caught.value.problems)
    with pytest.raises(UsageError):
        Sampling(seed=2**63)


@pytest.mark.parametrize("top_p", [0.0, -0.1, 1.5, math.nan, math.inf])
def test_a_nucleus_that_is_none(top_p: float) -> None:
    with pytest.raises(UsageError, match="top_p must be above 0 and at most 1"):
        Sampling(temperature=1.0, top_p=top_p)


@pytest.mark.parametrize("logits", [[math.nan, 1.0], [math.inf, 1.0], [-math.inf, -math.inf]])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers(logits: list[float], temperature: float) -> None:
    with pytest.raises(CheckpointError, match="bad-logits"):
        sample_next(np.array(logits), Sampling(temperature), np.random.default_rng(0))


def nucleus(scores: Scores, sampling: Sampling) -> list[int]:
    """The candidates by the definition: one after the other until their probability is enough."""
    order = sorted(range(scores.size), key=lambda token: (-scores[token], token))
    order = order[: sampling.top_k]
    weights = [math.exp((scores[i] - scores[order[0]]) / sampling.temperature) for i in order]
    kept, reached = [], 0.0
    for token, weight in zip(order, weights, strict=True):
        kept.append(token)
        reached += weight
        if sampling.top_p is not None and reached >= sampling.top_p * math.fsum(weights):
            break
    return kept


def warped(scores: Scores, sampling: Sampling) -> list[int]:
    """The candidates that the warpers of transformers leave."""
    given = torch.from_numpy(scores)[None]
    given = TemperatureLogitsWarper(sampling.temperature)(None, given)
    if sampling.top_k is not None:
        given = TopKLogitsWarper(sampling.top_k)(None, given)
    if sampling.top_p is not None:
        given = TopPLogitsWarper(sampling.top_p)(None, given)
    return [int(token) for token in torch.isfinite(given[0]).nonzero()]


def _samplings() -> st.SearchStrategy[Sampling]:
    return st.builds(
        Sampling,
        temperature=st.floats(0.1, 9),
        top_k=st.none() | st.integers(1, 20),
        top_p=st.none() | st.floats(0.01, 0.99),
    )


def _scores(unique: bool) -> st.SearchStrategy[Scores]:
    """Scores between which no rounding decides; where they are not unique, many are equal."""
    steps = st.lists(st.integers(-40, 40), min_size=1, max_size=15, unique=unique)
    return steps.map(lambda numbers: np.array(numbers) / 7)


def disagreement(
    kept: Callable[[Scores, Sampling], Any],
    oracle: Callable[[Scores, Sampling], list[int]],
    scores: Scores,
    sampling: Sampling,
) -> bool:
    """Whether other candidates are kept than the oracle keeps."""
    if _is_close(scores, sampling):
        return False
    return sorted(kept(scores, sampling)[0].tolist()) != sorted(oracle(scores, sampling))


def _is_close(scores: Scores, sampling: Sampling) -> bool:
    """Whether rounding decides: some sum of the likeliest is top_p, to within an error."""
    order = sorted(scores, reverse=True)[: sampling.top_k]
    weights = np.exp((np.array(order) - order[0]) / sampling.temperature)
    shares = np.cumsum(weights) / weights.sum()
    return sampling.top_p is not None and bool(np.abs(shares - sampling.top_p).min() < 1e-9)


@given(scores=_scores(unique=False), sampling=_samplings())
def test_the_nucleus_is_that_of_its_definition(scores: Scores, sampling: Sampling) -> None:
    assert not disagreement(kept_candidates, nucleus, scores, sampling)


@given(scores=_scores(unique=True), sampling=_samplings())
def test_the_candidates_are_those_of_transformers(scores: Scores, sampling: Sampling) -> None:
    assert not disagreement(kept_candidates, warped, scores, sampling)


def test_sabotage_a_nucleus_that_stops_one_short_is_seen() -> None:
    def short(scores: Scores, sampling: Sampling) -> tuple[npt.NDArray[np.intp], Scores]:
        candidates, weights = kept_candidates(scores, sampling)
        return candidates[:-1], weights

    scores, sampling = np.arange(6) / 3, Sampling(temperature=1.0, top_p=0.8)
    found = partial(disagreement, scores=scores, sampling=sampling)
    for oracle in (nucleus, warped):
        assert not found(kept_candidates, oracle)
        assert found(short, oracle)


def test_of_equal_scores_the_first_are_kept() -> None:
    scores = np.array([1.0, 2.0, 2.0, 2.0])
    for sampling in (Sampling(1.0, top_p=0.5), Sampling(1.0, top_k=2)):
        assert kept_candidates(scores, sampling)[0].tolist() == [1, 2]
    assert kept_candidates(scores, Sampling(1.0, top_p=1e-9))[0].tolist() == [1]


def test_a_nucleus_of_all_draws_what_no_nucleus_draws() -> None:
    scores = np.array([0.0, -60.0, 1.0])
    every = Sampling(1.0, top_p=1.0)
    assert kept_candidates(scores, every)[0].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": "a"},
        {"temperature": None},
        {"top_k": 1.5},
        {"top_k": True},
        {"top_p": "x"},
        {"seed": None},
        {"seed": 1.5},
    ],
)
def test_settings_that_are_no_numbers(settings: Any) -> None:
    with pytest.raises(UsageError, match="bad-sampling"):
        Sampling(**settings)
