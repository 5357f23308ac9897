"""Budgets: the most steps that they pay for, and not one more."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import example, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st

from rinsc.cost import training_flops
from rinsc.errors import SpecError
from rinsc.graph import build_graph
from rinsc.graph.law import draw_rounds
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse
from rinsc.training import schedules as depth
from rinsc.training.budget import Budget, matched, spending, with_budget
from rinsc.training.config import TrainConfig

TEXTS = ["AB", "(A^3)B", "((A^2)B)^2", "(A^5{skip=0.5})B^2"]
SPECS = {
    text: model_spec(
        text, layers=4, width=12, heads=3, kv_heads=1, mlp_width=17, vocab_size=31, context=19
    )
    for text in TEXTS
}
LOOPED = [text for text in TEXTS if "^" in text]
FIXED = [text for text in TEXTS if "skip" not in text]
DRAWN = [
    "A^3{skip=0.5, adapter=linear}B",
    "A^4{sample=uniform(1, 9)}B^2{skip=0.25}",
    "A^3{sample=choice(1, 7)}B",
    "A^3{sample=poisson_lognormal(3, 0.7), inject=add, grad=2}B",
    "(A^2{skip=0.5}B)^3{skip=0.3}",
]


def settings(batch: int, seq: int, **more: object) -> TrainConfig:
    return TrainConfig(batch_sequences=batch, sequence_length=seq, **more)  # type: ignore[arg-type]


BATCHES, LENGTHS = st.integers(1, 5), st.integers(1, 19)
STEPS, SHARES = st.integers(1, 10**8), st.floats(0, 1)


@given(st.sampled_from(FIXED), BATCHES, LENGTHS, STEPS, SHARES, st.none() | st.integers(1, 4))
def test_flops_pay_for_their_steps_and_no_more(
    text: str, batch: int, seq: int, steps: int, share: float, rounds: int | None
) -> None:
    spec, rounds = SPECS[text], rounds if text in LOOPED else None
    step = training_flops(spec, seq, batch=batch, rounds=rounds)
    flops = steps * step + int(share * (step - 1))
    config = with_budget(settings(batch, seq, rounds=rounds), spec, Budget(flops, "flops"))
    assert config.steps == steps
    assert config.steps * step <= flops < (config.steps + 1) * step
    spent = spending(config, spec)
    assert (spent.steps, spent.tokens) == (config.steps, config.steps * batch * seq)
    assert spent.training_flops == config.steps * step


@given(BATCHES, LENGTHS, st.integers(100, 10**9))
def test_tokens_pay_for_their_steps_and_no_more(batch: int, seq: int, tokens: int) -> None:
    config = with_budget(settings(batch, seq), SPECS["AB"], Budget(tokens, "tokens"))
    assert config.tokens <= tokens < config.tokens + batch * seq


@given(st.integers(1, 10**9))
def test_steps_are_steps(steps: int) -> None:
    assert with_budget(settings(1, 3), SPECS["AB"], Budget(steps, "steps")).steps == steps


SCHEDULES = st.lists(
    st.tuples(st.integers(1, 99), st.integers(1, 5)), max_size=3, unique_by=lambda pair: pair[0]
).map(lambda pairs: ((0.0, 2), *((share / 100, rounds) for share, rounds in sorted(pairs))))


def by_hand(spec: ModelSpec, schedule: tuple[tuple[float, int], ...], steps: int) -> int:
    """FLOPs of each step summed up: its rounds are the last that begin at or before it."""
    total = 0
    cost = {rounds: training_flops(spec, 7, batch=2, rounds=rounds) for _, rounds in schedule}
    for step in range(steps):
        total += cost[[rounds for share, rounds in schedule if share * steps <= step][-1]]
    return total


@given(st.sampled_from(LOOPED), SCHEDULES, st.integers(1, 100), st.floats(0, 0.999))
def test_growing_rounds_never_cost_more_than_the_budget(
    text: str, schedule: tuple[tuple[float, int], ...], steps: int, more: float
) -> None:
    """One more is taken at its word: fewer rounds at the end may make many more cheaper."""
    spec = SPECS[text]
    step = training_flops(spec, 7, batch=2, rounds=1)
    flops = by_hand(spec, schedule, steps) + int(more * step)
    config = with_budget(settings(2, 7, rounds_schedule=schedule), spec, Budget(flops, "flops"))
    assert spending(config, spec).training_flops == by_hand(spec, schedule, config.steps) <= flops
    assert by_hand(spec, schedule, config.steps + 1) > flops


@pytest.mark.parametrize("unit", ["flops", "tokens"])
def test_less_than_a_step_is_refused(unit: str) -> None:
    spec = SPECS["(A^3)B"]
    step = {"flops": training_flops(spec, 7, batch=2), "tokens": 14}[unit]
    with pytest.raises(SpecError) as caught:
        with_budget(settings(2, 7), spec, Budget(step - 1, unit))  # type: ignore[arg-type]
    assert caught.value.code == "budget-too-small"
    assert str(step) in caught.value.message
    assert caught.value.hint
    schedule = ((0.0, 1), (0.5, 3))
    with pytest.raises(SpecError, match="pay for no step"):
        with_budget(settings(2, 7, rounds_schedule=schedule), spec, Budget(5, "flops"))


@given(st.sampled_from(["(A^3)B", "((A^2)B)^2"]), BATCHES, LENGTHS, st.integers(1, 500))
def test_a_matched_run_takes_the_steps_that_its_baseline_pays_for(
    text: str, batch: int, seq: int, steps: int
) -> None:
    spec, baseline = SPECS[text], SPECS["AB"]
    one, other = (training_flops(each, seq, batch=batch) for each in (spec, baseline))
    paid = steps * other // one
    if paid == 0:
        with pytest.raises(SpecError, match="pay for no step"):
            matched(settings(batch, seq, steps=steps), spec, baseline)
        return
    config = matched(settings(batch, seq, steps=steps), spec, baseline)
    assert config.steps == paid
    assert spending(config, spec).training_flops == paid * one


ZIGZAGS = st.lists(
    st.tuples(st.integers(1, 99), st.integers(1, 8)),
    min_size=2,
    max_size=6,
    unique_by=lambda pair: pair[0],
).map(lambda pairs: ((0.0, 1), *((share / 100, rounds) for share, rounds in sorted(pairs))))


@example(((0.0, 1), (0.12, 8), (0.29, 1), (0.32, 8), (0.75, 1)), 31)
@given(ZIGZAGS, st.integers(20, 400))
def test_a_schedule_that_goes_up_and_down_ends_within_a_step_of_its_baseline(
    schedule: tuple[tuple[float, int], ...], steps: int
) -> None:
    spec, baseline = SPECS["(A^3)B"], SPECS["AB"]
    config = matched(settings(2, 7, rounds_schedule=schedule, steps=steps), spec, baseline)
    budget = steps * training_flops(baseline, 7, batch=2)
    most = max(training_flops(spec, 7, batch=2, rounds=rounds) for _, rounds in schedule)
    assert abs(budget - by_hand(spec, schedule, config.steps)) < most


def by_draws(spec: ModelSpec, seed: int, steps: int) -> list[int]:
    """FLOPs so far after each step, at the rounds that its seed draws."""
    graph, total, found = build_graph(spec), 0, []
    for step in range(steps):
        total += training_flops(graph, 7, batch=2, rounds=draw_rounds(graph, seed, step))
        found.append(total)
    return found


@settings_of_hypothesis(deadline=None)
@given(st.sampled_from(DRAWN), st.integers(0, 2**63 - 1), st.integers(1, 60), st.floats(0, 0.999))
def test_drawn_rounds_are_paid_for_as_they_are_drawn(
    text: str, seed: int, steps: int, more: float
) -> None:
    spec = dataclasses.replace(SPECS["AB"], signature=parse(text))
    spent = by_draws(spec, seed, steps + 1)
    flops = spent[steps - 1] + int(more * (spent[steps] - spent[steps - 1]))
    config = with_budget(settings(2, 7, seed=seed), spec, Budget(flops, "flops"))
    assert config.steps == steps
    plan = spending(config, spec)
    assert (plan.training_flops, plan.is_exact) == (spent[steps - 1], True)


@pytest.mark.parametrize("text", DRAWN)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_matched_run_with_drawn_rounds_ends_at_the_budget(text: str, seed: int) -> None:
    spec = dataclasses.replace(SPECS["AB"], signature=parse(text))
    steps = 300
    budget = steps * training_flops(SPECS["AB"], 7, batch=2)
    config = matched(settings(2, 7, seed=seed, steps=steps), spec, SPECS["AB"])
    spent = by_draws(spec, seed, config.steps + 1)
    assert spent[-2] <= budget < spent[-1]
    assert spending(config, spec).training_flops == spent[-2]


def test_a_baseline_with_drawn_rounds_is_matched_as_it_draws() -> None:
    drawn = SPECS["(A^5{skip=0.5})B^2"]
    config = settings(2, 7, steps=200, seed=3)
    budget = by_draws(drawn, 3, 200)[-1]
    found = matched(config, SPECS["AB"], drawn)
    step = training_flops(SPECS["AB"], 7, batch=2)
    assert found.steps == budget // step
    assert matched(config, drawn, drawn).steps == 200


def test_draws_of_a_run_without_end_are_counted_in_expectation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A budget that pays for more steps than can be drawn beforehand answers at once."""
    monkeypatch.setattr(depth, "EXACT_STEPS", 50)
    spec = SPECS["(A^5{skip=0.5})B^2"]
    mean = training_flops(spec, 7, batch=2)
    config = with_budget(settings(2, 7), spec, Budget(10**6 * mean, "flops"))
    assert config.steps == pytest.approx(10**6, abs=50)
    plan = spending(config, spec)
    assert (plan.training_flops, plan.is_exact) == (config.steps * mean, False)


def test_rounds_that_are_set_are_not_drawn() -> None:
    spec = SPECS["(A^5{skip=0.5})B^2"]
    config = settings(2, 7, steps=1000)
    expected = spending(config, spec).training_flops
    # 1 + Binomial(4, 0.5) rounds: 3 in expectation, so that 1000 steps are not far from it.
    mean = training_flops(spec, 7, batch=2, rounds={"A": 3, "B": 2})
    assert expected == pytest.approx(1000 * mean, rel=0.03)
    other = dataclasses.replace(config, rounds={"A": 5})
    fixed = training_flops(spec, 7, batch=2, rounds={"A": 5, "B": 2})
    assert spending(other, spec).training_flops == 1000 * fixed
