"""Sessions that generate: batches, streams and settings, against PyTorch without a cache."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.torch.generating import generate_ids
from rinsc.errors import RinscError, SpecError, UsageError
from rinsc.graph import RoundsWarning
from rinsc.sampling import Sampling
from tests.onnx.models import lively_model, small_spec

SPEC = small_spec("(A^3)B")
MODEL = lively_model(SPEC)
SESSIONS = {
    cache: Session(to_onnx(MODEL, "dynamic", cache=cache), threads=1) for cache in (True, False)
}
PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5], [3] * 19]


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("rounds", [None, 1, 2])
def test_a_greedy_batch_is_each_prompt_alone(cache: bool, rounds: int | None) -> None:
    """Beyond the context too: 19 positions."""
    expected = [
        generate_ids(MODEL, prompt, 30, sampling=Sampling(), rounds=rounds, cache=False)
        for prompt in PROMPTS
    ]
    session = SESSIONS[cache]
    assert session.generate(PROMPTS[:3], 30, rounds=rounds) == expected[:3]
    assert session.generate(PROMPTS, 30, rounds=rounds) == expected


@settings(max_examples=15)
@given(
    lengths=st.lists(st.integers(1, 19), min_size=1, max_size=4),
    sampling=st.builds(
        Sampling,
        temperature=st.sampled_from([0.0, 0.7, 2.0]),
        top_k=st.none() | st.integers(1, 53),
        top_p=st.none() | st.floats(0.1, 1.0),
        seed=st.integers(0, 2**63 - 1),
    ),
    stop_ids=st.lists(st.integers(0, 52), max_size=9),
)
def test_a_batch_draws_what_its_rows_draw_alone(
    lengths: list[int], sampling: Sampling, stop_ids: list[int]
) -> None:
    rows = [np.random.default_rng(size).integers(0, 53, size).tolist() for size in lengths]
    asked: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "stop_ids": stop_ids,
    }
    found = SESSIONS[True].generate(rows, 9, seed=sampling.seed, **asked)
    first = Sampling(sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed)
    assert found[0] == generate_ids(MODEL, rows[0], 9, sampling=first, stop_ids=stop_ids)
    for place, row in enumerate(rows):
        if sampling.seed + place < 2**63:
            alone = SESSIONS[False].generate(row, 9, seed=sampling.seed + place, **asked)
            assert found[place] == alone


def test_rows_that_start_from_noise_are_those_alone() -> None:
    """Noise depends on the row of a batch, so such rows share no cache."""
    model = lively_model(small_spec("P(AB)^2{inject=add, init=noise}"))
    session = Session(to_onnx(model, cache=True), threads=1)
    expected = [session.generate(prompt, 12) for prompt in PROMPTS]
    assert session.generate(PROMPTS, 12) == expected
    assert generate_ids(model, PROMPTS, 12, sampling=Sampling()) == expected


def test_generation_ends_before_a_stop_id() -> None:
    session = SESSIONS[True]
    whole = session.generate([3, 1, 4], 20)
    stop = whole[5]
    assert session.generate([3, 1, 4], 20, stop_ids=[stop]) == whole[: whole.index(stop)]
    assert session.generate([3, 1, 4], 20, stop_ids=[whole[0]]) == []


@pytest.mark.parametrize("cache", [True, False])
def test_a_stream_gives_the_same_ids_one_by_one(cache: bool) -> None:
    session = SESSIONS[cache]
    asked: dict[str, Any] = {"temperature": 1.5, "top_p": 0.9, "seed": 3, "rounds": 2}
    whole = session.generate([7, 7], 40, **asked)
    stream = session.stream([7, 7], 40, **asked)
    assert next(stream) == whole[0]
    assert list(stream) == whole[1:]


def test_a_prompt_as_an_array() -> None:
    prompt: Any = np.array([3, 1, 4], np.uint16)
    assert SESSIONS[True].generate(prompt, 5) == SESSIONS[True].generate([3, 1, 4], 5)


@pytest.mark.parametrize(
    ("prompt", "changes", "code"),
    [
        ([[1], []], {}, "bad-prompt"),
        ([1] * 20, {}, "prompt-too-long"),
        ([53], {}, "bad-token"),
        ([1], {"stop_ids": [53]}, "bad-token"),
        ([1], {"top_p": 0}, "bad-sampling"),
        ([1], {"top_p": 1.5}, "bad-sampling"),
        ([1], {"top_p": float("nan")}, "bad-sampling"),
        ([1], {"rounds": 0}, "bad-rounds"),
        ([1], {"rounds": 1 << 20}, "bad-rounds"),
    ],
)
def test_mistakes_are_told_before_the_first_id(prompt: Any, changes: Any, code: str) -> None:
    for ask in (SESSIONS[True].generate, SESSIONS[True].stream):
        with pytest.raises(RinscError) as caught:
            ask(prompt, 3, **changes)
        assert caught.value.code == code
        assert len(caught.value.problems) == 1


def test_a_stream_of_two_prompts_is_refused() -> None:
    prompts: Any = [[1], [2]]
    with pytest.raises(UsageError, match="a stream follows one prompt"):
        SESSIONS[True].stream(prompts, 3)


def test_a_model_of_images_has_nothing_to_continue() -> None:
    spec = small_spec("AB", kind="vit", mlp_width=37)
    session = Session(to_onnx(lively_model(spec)), threads=1)
    for ask in (session.generate, session.stream):
        with pytest.raises(SpecError, match="not-a-language-model"):
            ask([1], 3)


def test_rounds_above_the_trained_ones_are_told_once_a_session() -> None:
    session = Session(to_onnx(MODEL, "dynamic", cache=True), threads=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.generate([1], 2, rounds=3)
    with pytest.warns(RoundsWarning, match="'A' runs 5 rounds and was trained at 3") as caught:
        session.generate([1], 2, rounds=5)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session.generate([1], 2, rounds=6)
    with pytest.warns(RoundsWarning, match="'A' runs 4 rounds"):
        Session(to_onnx(MODEL, 4), threads=1).generate([1], 2)


def test_sabotage_a_batch_without_its_mask_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    session = SESSIONS[True]
    expected = session.generate(PROMPTS, 12)
    step = session.step
    monkeypatch.setattr(
        session,
        "step",
        lambda ids, past=None, *, attention_mask, rounds: step(ids, past, rounds=rounds),
    )
    assert session.generate(PROMPTS, 12) != expected
