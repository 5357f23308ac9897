"""Text from a model, against picking tokens by hand."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch

from rinsc.backends.torch import CompiledModule
from rinsc.backends.torch.generating import generate_ids
from rinsc.errors import GraphError, UsageError
from rinsc.graph import Rounds, RoundsWarning
from rinsc.sampling import Sampling
from rinsc.spec import ModelSpec


@pytest.mark.parametrize("rounds", [None, 1, 3, {"A": 2}])
def test_greedy_generation_takes_the_largest_logit(
    model: CompiledModule, spec: ModelSpec, rounds: Rounds
) -> None:
    ids = [3, 14, 15]
    found = generate_ids(model, ids, 40, sampling=Sampling(), rounds=rounds)
    for _ in range(40):
        logits = model(torch.tensor([ids[-spec.context :]]), rounds=rounds)
        ids = [*ids, int(logits[0, -1].argmax())]
    assert found == ids[3:]
    assert found == generate_ids(
        model, ids[:3], 40, sampling=Sampling(), rounds=rounds, cache=False
    )


def test_the_seed_decides_and_the_mode_is_kept(model: CompiledModule, spec: ModelSpec) -> None:
    model.train()
    first, again, other = (
        generate_ids(
            model,
            [1],
            20,
            sampling=Sampling(temperature=1.0, top_k=50, seed=seed),
        )
        for seed in (1, 1, 2)
    )
    assert first == again != other
    assert model.training


PROMPTS = [[3, 14, 15], [9], [2, 6, 5, 3, 5], list(range(29))]


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_is_each_prompt_alone_with_the_next_seed(
    model: CompiledModule, cache: bool, temperature: float
) -> None:
    found = generate_ids(model, PROMPTS, 40, sampling=Sampling(temperature, seed=5), cache=cache)
    for place, prompt in enumerate(PROMPTS):
        sampling = Sampling(temperature, seed=5 + place)
        assert found[place] == generate_ids(model, prompt, 40, sampling=sampling, cache=False)


def test_generation_ends_before_a_stop_id(model: CompiledModule) -> None:
    whole = generate_ids(model, [3], 20, sampling=Sampling())
    stop = whole[4]
    found = generate_ids(model, [3], 20, sampling=Sampling(), stop_ids=[stop])
    assert found == whole[: whole.index(stop)]


def test_the_mode_is_kept_without_a_cache(model: CompiledModule) -> None:
    model.train()
    generate_ids(model, [3], 2, sampling=Sampling(), cache=False)
    assert model.training


@pytest.mark.parametrize(
    ("prompt", "count", "code"),
    [
        ([], 10, "bad-prompt"),
        ([[1], []], 10, "bad-prompt"),
        ([1] * 30, 10, "prompt-too-long"),
        ([307], 10, "bad-token"),
        ([1], -1, "bad-count"),
    ],
)
def test_what_cannot_be_continued(
    model: CompiledModule, prompt: Any, count: int, code: str
) -> None:
    with pytest.raises(UsageError) as caught:
        generate_ids(model, prompt, count, sampling=Sampling())
    assert caught.value.code == code


def test_rounds_above_the_trained_ones_are_told(model: CompiledModule) -> None:
    with pytest.warns(RoundsWarning, match="'A' runs 4 rounds and was trained at 3 at most"):
        generate_ids(model, [1], 2, sampling=Sampling(), rounds=4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        generate_ids(model, [1], 2, sampling=Sampling(), rounds=3)
    with pytest.raises(GraphError, match="bad-rounds"):
        generate_ids(model, [1], 2, sampling=Sampling(), rounds=1 << 20)
