"""Text from a model, against picking tokens by hand."""

from __future__ import annotations

import pytest
import torch

from rinsc.backends.torch import CompiledModule
from rinsc.errors import UsageError
from rinsc.graph import Rounds
from rinsc.sampling import Sampling
from rinsc.spec import ModelSpec
from rinsc.train.generate import generate_ids


@pytest.mark.parametrize("rounds", [None, 1, 4, {"A": 2}])
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


def test_an_empty_prompt_is_refused(model: CompiledModule, spec: ModelSpec) -> None:
    with pytest.raises(UsageError):
        generate_ids(model, [], 10, sampling=Sampling())
