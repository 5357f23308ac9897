"""Rounds that end early, against a plain loop over PyTorch's logits and states."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.torch import CompiledModule
from rinsc.backends.torch.decoding import cached_module
from rinsc.errors import RinscError
from tests.onnx.models import lively_model, random_ids, small_spec, torch_logits

LIMIT = 7
CLOSE = 1e-4
SIGNATURES = ["A^3", "(A^3)B", "P[1] (RS)^2 C[1]", "A[1] B[1]^2{inject=add,adapter=scale} C[2]"]

Logits = npt.NDArray[np.float32]


def changes(every: Sequence[Logits]) -> list[float]:
    """KL in nats between the distributions of one round and the next, the largest of a batch."""
    made = []
    for before, after in pairwise(every):
        p, q = (torch.log_softmax(torch.from_numpy(x).double(), -1) for x in (before, after))
        made.append(float((p.exp() * (p - q)).sum(-1).max()))
    return made


def rounds_needed(found: Sequence[float], threshold: float, limit: int) -> int:
    """The first round that changed less than the threshold."""
    return next((r for r, change in enumerate(found, 2) if change < threshold), limit)


@settings(max_examples=12)
@given(
    text=st.sampled_from(SIGNATURES),
    place=st.floats(0, 1),
    limit=st.integers(1, LIMIT),
    seed=st.integers(0, 9),
    wide=st.booleans(),
)
def test_the_distribution_of_the_next_token_decides(
    text: str, place: float, limit: int, seed: int, wide: bool
) -> None:
    model = lively_model(small_spec(text, width=64 if wide else 24), seed)
    ids = random_ids(model.spec, 2, 6, seed)
    every = [torch_logits(model, ids, rounds) for rounds in range(1, limit + 1)]
    found = changes(every)
    low, high = np.log(min(found, default=1e-3) / 2), np.log(max(found, default=1e-3) * 2)
    threshold = float(np.exp(low + place * (high - low)))
    assume(all(abs(change - threshold) > 1e-3 * threshold for change in found))
    expected = rounds_needed(found, threshold, limit)
    exported = to_onnx(model, "dynamic", exit=f"kl:{threshold!r}")
    exported.check()
    session = Session(exported, threads=1)
    logits = session.logits(ids, limit)
    (used,) = session.rounds_used.values()
    assert used == expected
    assert np.abs(logits - every[used - 1]).max() <= CLOSE * (1 + np.abs(logits).max())


def states(model: CompiledModule, ids: npt.NDArray[np.int64], limit: int) -> list[torch.Tensor]:
    """The state after each number of rounds: what the head's norm is given."""
    kept: list[torch.Tensor] = []
    norm: Any = model.get_submodule("final_norm")
    hook = norm.register_forward_pre_hook(lambda _, given: kept.append(given[0].double()))
    for rounds in range(1, limit + 1):
        torch_logits(model, ids, rounds)
    hook.remove()
    return kept


@settings(max_examples=8)
@given(place=st.floats(0, 1), limit=st.integers(1, LIMIT), seed=st.integers(0, 9))
def test_the_state_decides(place: float, limit: int, seed: int) -> None:
    model = lively_model(small_spec("A^3"), seed)
    ids = random_ids(model.spec, 2, 6, seed)
    kept = states(model, ids, limit)
    found = [
        float(((after - before).norm(dim=-1) / after.norm(dim=-1)).max())
        for before, after in pairwise(kept)
    ]
    low, high = min(found, default=1) / 2, max(found, default=1) * 2
    threshold = low + place * (high - low)
    assume(all(abs(change - threshold) > 1e-3 * threshold for change in found))
    session = Session(to_onnx(model, "dynamic", exit=f"state:{threshold!r}"), threads=1)
    logits = session.logits(ids, limit)
    assert session.rounds_used == {"A": rounds_needed(found, threshold, limit)}
    expected = torch_logits(model, ids, session.rounds_used["A"])
    np.testing.assert_allclose(logits, expected, rtol=0, atol=CLOSE)


@pytest.mark.parametrize("width", [24, 64])
@pytest.mark.parametrize("when", ["kl:0.05", "kl:0.02", "state:0.5"])
def test_behind_a_cache_that_rounds_share(when: str, width: int) -> None:
    model = lively_model(small_spec("P[1] R[2]^6{kv=last} C[1]", width=width))
    session = Session(to_onnx(model, "dynamic", cache=True, exit=when), threads=1)
    cached = cached_module(model)
    ids = random_ids(model.spec, 1, 12)
    past, kept, used = None, None, set()
    rows = []
    for index in range(12):
        logits, past = session.step(ids[:, index : index + 1], past)
        rounds = session.rounds_used["R"]
        used.add(rounds)
        with torch.no_grad():
            token = torch.from_numpy(ids[:, index : index + 1])
            expected, kept = cached(token, kept, rounds=rounds)
        np.testing.assert_allclose(logits, expected.numpy(), rtol=0, atol=CLOSE)
        rows.append(logits)
    assert len(used) > 1, "the rounds differ from token to token"
    single = np.concatenate(rows, axis=1)
    at_once, _ = session.step(ids)
    np.testing.assert_allclose(at_once, single, rtol=0, atol=CLOSE)
    assert session.rounds_used["R"] == max(used)
    batch = np.concatenate([random_ids(model.spec, 2, 12, seed=5), ids])
    together, past = session.step(batch[:, :9])
    np.testing.assert_allclose(together[2:], single[:, :9], rtol=0, atol=CLOSE)
    last, _ = session.step(batch[:, 9:], past)
    np.testing.assert_allclose(last[2:], single[:, 9:], rtol=0, atol=CLOSE)
    prompts = [[1, 2], [3, 4, 5], [6]]
    assert session.generate(prompts, 10) == [session.generate(prompt, 10) for prompt in prompts]


def test_mistakes() -> None:
    model = lively_model(small_spec("(A^3)B"))
    for when in (
        "kl",
        "kl:",
        "kl:-1",
        "kl:nan",
        "kl:inf",
        "entropy:1",
        "state:0",
        "kl:1e39",
        "kl:1e-50",
    ):
        with pytest.raises(RinscError, match="exit"):
            to_onnx(model, "dynamic", exit=when)
    with pytest.raises(RinscError, match=r"set at run time(.|\n)*hint: ask for rounds='dynamic'"):
        to_onnx(model, exit="kl:1e-3")
    with pytest.raises(RinscError, match=r"holes(.|\n)*A\^3\{kv=last\}"):
        to_onnx(model, "dynamic", cache=True, exit="kl:1e-3")
    two = lively_model(small_spec("A^2B^2"))
    with pytest.raises(RinscError, match="several"):
        to_onnx(two, "dynamic", exit="kl:1e-3")
    session = Session(to_onnx(two, "dynamic", exit="state:1e-9"), threads=1)
    session.logits([[1, 2]])
    assert session.rounds_used == {"A": 2, "B": 2}
