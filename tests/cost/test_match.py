"""Compute matching: equal training FLOPs within one step, for any pair."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.cost import match_compute, training_flops
from rinsc.errors import SpecError
from rinsc.spec import model_spec

SIGNATURES = ["AB", "A^2B", "A^3B", "AB^3", "(AB)^2", "((A^2)B)^2"]


@given(
    baseline=st.sampled_from(SIGNATURES),
    variant=st.sampled_from(SIGNATURES),
    sequences=st.integers(1, 16),
    steps=st.integers(10, 10_000),
    extra=st.integers(0, 100),
)
def test_both_runs_agree_within_a_step(
    baseline: str, variant: str, sequences: int, steps: int, extra: int
) -> None:
    left, right = (model_spec(text, preset="tiny") for text in (baseline, variant))
    seq = left.context
    tokens = steps * sequences * seq + extra % (sequences * seq)
    plan = match_compute(left, right, tokens=tokens, batch_tokens=sequences * seq)
    assert plan.baseline_steps == steps
    spent = [
        plan.baseline_steps * training_flops(left, seq, batch=sequences),
        plan.variant_steps * training_flops(right, seq, batch=sequences),
    ]
    assert [plan.baseline_flops, plan.variant_flops] == spent
    assert 0 <= plan.remainder_flops < plan.variant_step_flops
    assert plan.remainder_flops == spent[0] - spent[1]


def test_equal_models_train_equally_long() -> None:
    spec = model_spec("AB", preset="tiny")
    plan = match_compute(spec, spec, tokens=10**6, batch_tokens=1024)
    assert plan.variant_tokens == plan.baseline_tokens
    assert plan.remainder_flops == 0


@pytest.mark.parametrize(
    ("tokens", "batch_tokens", "code"),
    [
        (10**6, 100, "bad-batch"),
        (10**6, 0, "bad-count"),
        (-1, 1024, "bad-count"),
        (1e6, 1024, "bad-count"),
        (10, 1024, "budget-too-small"),
    ],
)
def test_budgets_that_pay_for_nothing_are_refused(
    tokens: Any, batch_tokens: int, code: str
) -> None:
    spec = model_spec("AB", preset="tiny")
    with pytest.raises(SpecError) as caught:
        match_compute(spec, spec, tokens=tokens, batch_tokens=batch_tokens)
    assert caught.value.code == code


def test_the_sequence_must_fit_both_models() -> None:
    long, short = model_spec("AB", preset="tiny"), model_spec("A^2B", preset="tiny", context=64)
    with pytest.raises(SpecError, match="beyond-context"):
        match_compute(long, short, tokens=10**6, batch_tokens=1024)
    assert match_compute(long, short, tokens=10**6, batch_tokens=1024, seq=64).variant_steps > 0


def test_a_drawn_variant_trains_for_what_its_steps_cost_in_expectation() -> None:
    baseline = model_spec("AB", preset="tiny", layers=2)
    drawn = model_spec("A^3{skip=0.5}B", preset="tiny", layers=2)
    fixed = model_spec("A^2B", preset="tiny", layers=2)
    plan, same = (
        match_compute(baseline, spec, tokens=10**7, batch_tokens=4096) for spec in (drawn, fixed)
    )
    assert plan.in_expectation
    assert not same.in_expectation
    assert plan.as_dict() == {**same.as_dict(), "in_expectation": True}
