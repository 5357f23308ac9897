"""The shared sampling rule against the distribution it should draw from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from rinsc.errors import UsageError
from rinsc.sampling import Sampling, continue_tokens, sample_next

LOGITS = np.array([0.3, 1.7, -2.0, 1.1, 0.9], dtype=np.float32)


def _draw(temperature: float, top_k: int | None, count: int = 4000) -> Counter[int]:
    rng = np.random.default_rng(3)
    return Counter(sample_next(LOGITS, temperature, top_k, rng) for _ in range(count))


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
    assert sample_next(LOGITS, 0.0, None, rng) == 1
    assert rng.random() == np.random.default_rng(3).random()


@pytest.mark.parametrize("temperature", [1e-300, 1e300])
def test_extreme_temperatures_are_safe(temperature: float) -> None:
    assert sample_next(LOGITS, temperature, None, np.random.default_rng(0)) in range(5)


def test_continuing_crops_to_the_context_and_repeats_with_the_seed() -> None:
    seen: list[list[int]] = []

    def next_logits(ids: Sequence[int]) -> npt.NDArray[np.floating]:
        seen.append(list(ids))
        return LOGITS

    sampling = Sampling(temperature=1.0, seed=11)
    first = continue_tokens(next_logits, [4, 4, 4], 6, 4, sampling)
    assert len(first) == 6
    whole = [4, 4, 4, *first]
    assert seen == [whole[max(0, end - 4) : end] for end in range(3, 9)]
    assert continue_tokens(next_logits, [4, 4, 4], 6, 4, sampling) == first
    other = Sampling(temperature=1.0, seed=12)
    assert continue_tokens(next_logits, [4, 4, 4], 6, 4, other) != first


def test_every_bad_setting_is_named_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        Sampling(temperature=float("nan"), top_k=0, seed=-1)
    assert len(caught.value.problems) == 3
    assert all(problem.hint for problem in caught.value.problems)
    with pytest.raises(UsageError):
        Sampling(seed=2**63)


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(UsageError, match="prompt is empty"):
        continue_tokens(lambda ids: LOGITS, [], 1, 4, Sampling())
