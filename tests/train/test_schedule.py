"""The learning rate over the steps: warm-up, plateau, and where it ends."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.training.config import TrainConfig
from rinsc.training.schedules import learning_rate, schedule_note


def rates(**settings: object) -> list[float]:
    config = TrainConfig(learning_rate=1.0, **settings)  # type: ignore[arg-type]
    return [learning_rate(config, step) for step in range(config.steps)]


def test_cosine_warms_up_peaks_and_ends_where_it_should() -> None:
    found = rates(steps=100, warmup_steps=10)
    assert found[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert max(found) == found[10] == 1.0
    assert found[-1] == pytest.approx(0.1)
    halves = [0.55 + 0.45 * math.cos(math.pi * step / 89) for step in range(90)]
    assert found[10:] == pytest.approx(halves)


def test_wsd_warms_up_stays_and_falls_in_a_line() -> None:
    found = rates(steps=100, warmup_steps=10, schedule="wsd", final_learning_rate_share=0.0)
    assert found[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert found[10:80] == [1.0] * 70
    assert found[79:] == pytest.approx([1 - fall / 20 for fall in range(21)])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_wsd_decays_over_its_share(share: float) -> None:
    found = rates(steps=50, warmup_steps=0, schedule="wsd", decay_share=share)
    below = [rate for rate in found if rate < 1.0]
    assert len(below) == min(49, max(1, round(50 * share)))
    assert found == sorted(found, reverse=True)
    assert found[-1] == pytest.approx(0.1)


SHARES = st.floats(0, 1)


@given(st.integers(1, 50), st.integers(0, 80), SHARES, SHARES, st.sampled_from(["cosine", "wsd"]))
def test_no_rate_is_ever_out_of_range(
    steps: int, warmup: int, final: float, decay: float, schedule: str
) -> None:
    found = rates(
        steps=steps,
        warmup_steps=warmup,
        final_learning_rate_share=final,
        decay_share=decay,
        schedule=schedule,
    )
    assert all(0 <= rate <= 1 + 1e-12 for rate in found)
    peak = min(warmup, steps)
    assert found[:peak] == sorted(found[:peak])
    assert found[peak:] == sorted(found[peak:], reverse=True)
    if warmup < steps - 1:
        assert found[warmup] == 1.0 or schedule == "wsd"
        falls = schedule == "cosine" or round(decay * steps) > 0
        assert found[-1] == pytest.approx(final if falls else 1.0)


@pytest.mark.parametrize(("warmup", "noted"), [(0, False), (19, False), (20, True), (100, True)])
def test_a_warm_up_that_the_run_does_not_reach_the_end_of_is_noted(
    warmup: int, noted: bool
) -> None:
    config = TrainConfig(steps=20, warmup_steps=warmup, learning_rate=1e-3)
    note = schedule_note(config)
    highest = max(learning_rate(config, step) for step in range(20))
    assert (note is not None) == noted == (highest < 1e-3)
    if note is not None:
        assert f"ends at {highest:.2g} and never reaches 0.001" in note
