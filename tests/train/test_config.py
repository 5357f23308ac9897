"""Training settings: every mistake at once, and a file that reads back to the same settings."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.errors import SpecError
from rinsc.training.config import (
    MAX_STEPS,
    TrainConfig,
    config_from_mapping,
    config_from_toml,
    config_to_toml,
)

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
    checkpointing=st.sampled_from(["none", "visit", "round"]),
    optimizer=st.sampled_from(["adamw", "muon"]),
    schedule=st.sampled_from(["cosine", "wsd"]),
    decay_share=st.floats(0, 1),
    packing=st.sampled_from(["across", "documents"]),
    init_depth=st.sampled_from(["executed", "stored"]),
    learning_rate_visits_power=st.floats(0, 1),
    keep=st.integers(1, 99),
) | st.builds(
    TrainConfig,
    accumulate=st.sampled_from([1, 2, 4, 8]),
    rounds_schedule=st.lists(st.integers(1, 99), unique=True, max_size=3).map(
        lambda shares: ((0.0, 1), *((share / 100, share) for share in sorted(shares)))
    ),
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
    if field.name == "heal" and isinstance(value, str):
        return  # the name of a folder
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


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ({"accumulate": 3}, "accumulate"),
        ({"keep": 0}, "keep"),
        ({"decay_share": 1.5}, "decay_share"),
        ({"learning_rate_visits_power": -0.5}, "learning_rate_visits_power"),
        ({"optimizer": "sgd"}, "optimizer"),
        ({"rounds_schedule": [[0.1, 2]]}, "rounds_schedule"),
        ({"rounds_schedule": [[0.0, 2], [0.0, 3]]}, "rounds_schedule"),
        ({"rounds_schedule": [[0.0, 2], [1.0, 3]]}, "rounds_schedule"),
        ({"rounds_schedule": [[0.0, 0]]}, "rounds_schedule"),
        ({"rounds_schedule": [[0.0, 2]], "rounds": 2}, "rounds_schedule"),
    ],
)
def test_what_contradicts_itself_is_refused(given: dict[str, object], key: str) -> None:
    with pytest.raises(SpecError) as caught:
        config_from_mapping(given)
    assert [problem.place for problem in caught.value.problems] == [key]
    assert caught.value.hint


def test_text_that_is_no_toml() -> None:
    with pytest.raises(SpecError):
        config_from_toml("steps = = 3")


def test_more_steps_than_any_run_has_are_refused() -> None:
    assert TrainConfig(steps=MAX_STEPS).steps == MAX_STEPS
    with pytest.raises(SpecError) as caught:
        TrainConfig(steps=10**90)
    assert caught.value.message == (
        f"'steps' must be at most {MAX_STEPS}, not {'1'.ljust(37, '0')}..."
    )
