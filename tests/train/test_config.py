"""Training settings: every mistake at once, and a file that reads back to the same settings."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.errors import SpecError
from rinsc.train.config import (
    MAX_STEPS,
    TrainConfig,
    config_from_mapping,
    config_from_toml,
    config_to_toml,
)
from rinsc.train.schedule import learning_rate

CONFIGS = st.builds(
    TrainConfig,
    steps=st.integers(1, 10**9),
    learning_rate=st.floats(1e-9, 1e3),
    weight_decay=st.floats(0, 10),
    betas=st.tuples(st.floats(0, 0.9999), st.floats(0, 0.9999)),
    clip=st.floats(1e-6, 1e6),
    seed=st.integers(0, 2**63 - 1),
    precision=st.sampled_from(["fp32", "bf16"]),
    rounds=st.none()
    | st.integers(1, 99)
    | st.dictionaries(st.sampled_from(["A", "AB", "Ab_1"]), st.integers(1, 99)),
    compile=st.booleans(),
)


@given(config=CONFIGS)
def test_the_file_reads_back_to_the_same_settings(config: TrainConfig) -> None:
    assert config_from_toml(config_to_toml(config)) == config


def test_every_bad_value_is_named_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        TrainConfig(
            steps=0,
            learning_rate=math.inf,
            betas=(0.9, 1.0),
            precision="fp8",  # type: ignore[arg-type]
            rounds=0,
            seed=-1,
            compile=1,  # type: ignore[arg-type]
        )
    named = {problem.message.split("'")[1] for problem in caught.value.problems}
    assert named == {"steps", "learning_rate", "betas", "precision", "rounds", "seed", "compile"}
    assert {problem.place for problem in caught.value.problems} == named
    assert all(problem.hint for problem in caught.value.problems)


@pytest.mark.parametrize("field", dataclasses.fields(TrainConfig), ids=lambda field: field.name)
@pytest.mark.parametrize("value", ["many", [1], math.nan, {"A": 0}, {"A": True}])
def test_no_setting_takes_nonsense(field: dataclasses.Field[object], value: object) -> None:
    with pytest.raises(SpecError):
        config_from_mapping({field.name: value})


def test_a_batch_too_large_for_any_memory_is_refused() -> None:
    with pytest.raises(SpecError, match="must be at most"):
        TrainConfig(batch_sequences=10**9, sequence_length=10**9)


def test_an_unknown_setting_names_the_nearest_and_the_file() -> None:
    with pytest.raises(SpecError) as caught:
        config_from_toml("step = 3\nclip = -1\n", place="train.toml")
    unknown, bad = caught.value.problems
    assert unknown.hint == "did you mean 'steps'?"
    assert (unknown.place, bad.place) == ("train.toml: step", "train.toml: clip")


def test_text_that_is_no_toml() -> None:
    with pytest.raises(SpecError):
        config_from_toml("steps = = 3")


def test_the_schedule_warms_up_peaks_and_ends_where_it_should() -> None:
    config = TrainConfig(steps=100, warmup_steps=10, learning_rate=1.0)
    rates = [learning_rate(config, step) for step in range(100)]
    assert rates[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert max(rates) == rates[10] == 1.0
    assert rates[-1] == pytest.approx(0.1)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[10 + 89 // 2] == pytest.approx(0.55, abs=0.02)


@given(steps=st.integers(1, 50), warmup=st.integers(0, 80), share=st.floats(0, 1))
def test_no_rate_is_ever_out_of_range(steps: int, warmup: int, share: float) -> None:
    config = TrainConfig(steps=steps, warmup_steps=warmup, final_learning_rate_share=share)
    for step in range(steps):
        assert 0 <= learning_rate(config, step) <= config.learning_rate * (1 + 1e-12)


def test_more_steps_than_any_run_has_are_refused() -> None:
    assert TrainConfig(steps=MAX_STEPS).steps == MAX_STEPS
    with pytest.raises(SpecError) as caught:
        TrainConfig(steps=10**90)
    assert caught.value.message == (
        f"'steps' must be at most {MAX_STEPS}, not {'1'.ljust(37, '0')}..."
    )
