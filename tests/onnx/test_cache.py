"""Cached models in ONNX Runtime against PyTorch: every form, padding, rounds, and mistakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.torch.decoding import cached_module
from rinsc.backends.torch.generating import generate_ids
from rinsc.errors import LoweringError, RinscError
from rinsc.layers import layer_kind
from rinsc.sampling import Sampling
from rinsc.spec import ModelSpec
from tests.kinds import KINDS
from tests.onnx.models import (
    all_graphs,
    all_nodes,
    lively_model,
    random_ids,
    rounding,
    small_spec,
    torch_logits,
)
from tests.specs import specs

CAUSAL = [kind for kind in KINDS if layer_kind(kind).causal]
CLOSE = 1e-4


def stepped(
    session: Session, input_ids: npt.NDArray[np.int64], first: int, rounds: int | None = None
) -> npt.NDArray[np.float32]:
    """Logits of all tokens: a prompt, then one by one."""
    logits, past = session.step(input_ids[:, :first], rounds=rounds)
    made = [logits]
    for place in range(first, input_ids.shape[1]):
        logits, past = session.step(input_ids[:, place : place + 1], past, rounds=rounds)
        made.append(logits)
    return np.concatenate(made, axis=1)


@settings(max_examples=15)
@given(spec=specs(options=True, kinds=CAUSAL, max_visits=6), first=st.integers(1, 6))
def test_every_cached_form_equals_torch(spec: ModelSpec, first: int) -> None:
    if any(not layer_kind(kind).causal for kind in spec.block_kinds.values()):
        return
    model = lively_model(spec)
    cached = cached_module(model)
    input_ids = random_ids(spec, 2, 9)
    dialled = [None, 1, 2] if any(model.graph.dials()) else [None]
    with torch.no_grad():
        for rounds in dialled:
            logits, past = cached(torch.from_numpy(input_ids[:, :first]), rounds=rounds)
            expected = [logits]
            for place in range(first, 9):
                token = torch.from_numpy(input_ids[:, place : place + 1])
                logits, past = cached(token, past, rounds=rounds)
                expected.append(logits)
            whole = torch.cat(expected, dim=1).numpy()
            limit = CLOSE * (1 + np.abs(whole).max()) + 4 * rounding(model, input_ids, rounds)
            fixed = to_onnx(model, rounds, cache=True)
            fixed.check()
            found = stepped(Session(fixed, threads=1), input_ids, first)
            assert np.abs(found - whole).max() <= limit
            dial = to_onnx(model, "dynamic", cache=True)
            dial.check()
            found = stepped(Session(dial, threads=1), input_ids, first, rounds)
            assert np.abs(found - whole).max() <= limit


@pytest.mark.parametrize("kind", ["llama", "gpt"])
def test_generation_is_that_of_pytorch_without_a_cache(kind: str) -> None:
    spec = small_spec("(A^3)B", kind=kind, context=300)
    model = lively_model(spec)
    session = Session(to_onnx(model, "dynamic", cache=True), threads=1)
    for rounds in (1, 2, 3, 4):
        expected = generate_ids(model, [1, 2], 256, sampling=Sampling(), rounds=rounds, cache=False)
        assert session.generate([1, 2], 256, rounds=rounds) == expected


def test_generation_beyond_the_context_moves_a_window_on() -> None:
    spec = small_spec("(A^2)B")
    model = lively_model(spec)
    expected = generate_ids(model, [1, 2], 40, sampling=Sampling(), cache=False)
    assert Session(to_onnx(model, cache=True), threads=1).generate([1, 2], 40) == expected


def test_a_padded_batch() -> None:
    spec = small_spec("(A^2)B")
    model = lively_model(spec)
    session = Session(to_onnx(model, "dynamic", cache=True), threads=1)
    input_ids = random_ids(spec, 1, 9)
    expected = torch_logits(model, input_ids)
    padded = np.concatenate([np.zeros((1, 3), np.int64), input_ids], axis=1)
    mask = np.ones((1, 12), np.int64)
    mask[:, :3] = 0
    logits, past = session.step(padded[:, :8], attention_mask=mask[:, :8])
    last, _ = session.step(padded[:, 8:], past, attention_mask=mask)
    found = np.concatenate([logits, last], axis=1)[:, 3:]
    np.testing.assert_allclose(found, expected, rtol=0, atol=CLOSE)


def test_the_names_are_those_that_runtimes_look_for() -> None:
    graph = to_onnx(lively_model(small_spec("(A^2)B")), cache=True).ir.graph
    inputs = [value.name for value in graph.inputs]
    assert inputs[:4] == [
        "input_ids",
        "attention_mask",
        "past_key_values.0.key",
        "past_key_values.0.value",
    ]
    assert len(inputs) == 2 + 2 * 6
    assert [value.name for value in graph.outputs][-1] == "present.5.value"


@pytest.mark.parametrize("text", ["(A^2B)^3", "((A^2)^2{kv=last})^2"])
def test_names_are_unique_in_all_graphs(text: str) -> None:
    graph = to_onnx(lively_model(small_spec(text)), "dynamic", cache=True).ir.graph
    values = [value.name for node in all_nodes(graph) for value in node.outputs]
    values += [value.name for each in all_graphs(graph) for value in each.inputs]
    assert len(set(values)) == len(values)


def test_a_cache_belongs_to_its_session() -> None:
    model = lively_model(small_spec("(A^3)B"))
    two, three = (Session(to_onnx(model, rounds, cache=True)) for rounds in (2, 3))
    _, past = two.step([[1, 2]])
    nothing: Any = "a cache"
    for other in (past, nothing):
        with pytest.raises(LoweringError, match="another-cache"):
            three.step([[3]], other)


def test_mistakes_with_a_cache() -> None:
    spec = small_spec("(A^3)B")
    model = lively_model(spec)
    plain, session = Session(to_onnx(model)), Session(to_onnx(model, "dynamic", cache=True))
    with pytest.raises(LoweringError, match="no-cache"):
        plain.step([[1]])
    _, past = session.step([[1, 2, 3]], rounds=2)
    with pytest.raises(LoweringError, match="another-cache"):
        session.step([[1]], past, rounds=3)
    with pytest.raises(LoweringError, match="another-cache"):
        session.step([[1], [2]], past, rounds=2)
    with pytest.raises(RinscError, match="context-exceeded"):
        session.step([[1] * 17], past, rounds=2)
    ragged: Any = [[1], [1, 2]]
    for mask in ([[1]], [[1, 1, 1, 2]], ragged):
        with pytest.raises(RinscError, match="bad-input"):
            session.step([[1]], past, rounds=2, attention_mask=mask)


SHARING = ["A^3{kv=first}B", "P A^2{kv=last}B", "(A^2{kv=last}B)^2{kv=first}"]


@pytest.mark.parametrize("text", SHARING)
@pytest.mark.parametrize("form", ["fixed", "dial", "gated", "portable"])
def test_rounds_that_share_slots_do_not_depend_on_cuts_and_batches(text: str, form: str) -> None:
    """A row cut anywhere, in any batch, against PyTorch's rows alone, one token at a time."""
    model = lively_model(small_spec(text, layers=3, width=64))
    rounds: Any = "dynamic" if form == "dial" else None
    options: Any = {"gated": form == "gated", "portable": form == "portable"}
    session = Session(to_onnx(model, rounds, cache=True, **options), threads=1)
    cached, ids, past = cached_module(model), random_ids(model.spec, 3, 8), None
    singles = []
    with torch.no_grad():
        for index in range(8):
            logits, past = cached(torch.from_numpy(ids[:1, index : index + 1]), past)
            singles.append(logits.numpy())
    expected = np.concatenate(singles, axis=1)
    for first in (1, 5, 8):
        found = stepped(session, ids, first)
        np.testing.assert_allclose(found[:1], expected, rtol=0, atol=CLOSE)
    mask = np.ones((3, 10), np.int64)
    mask[0, :2] = mask[1, 3:5] = 0
    padded = np.zeros_like(mask)
    padded[mask == 1] = np.concatenate([ids[0], ids[1], ids[2], ids[2, :2]])
    found, _ = session.step(padded, attention_mask=mask)
    np.testing.assert_allclose(found[:1, 2:], expected, rtol=0, atol=CLOSE)
    prompts = [[1, 2], [3, 4, 5, 6], [7]]
    assert session.generate(prompts, 9) == [session.generate(prompt, 9) for prompt in prompts]


def test_plain_runtimes_are_told_to_run_such_models_token_by_token() -> None:
    exported = to_onnx(lively_model(small_spec("A^2{kv=last}B")), cache=True)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    raw = onnxruntime.InferenceSession(exported.to_bytes(), options)
    slots = [slot for slot in raw.get_inputs() if slot.name.startswith("past")]
    feed = {slot.name: np.zeros((1, slot.shape[1], 0, slot.shape[3]), np.float32) for slot in slots}
    for seq in (1, 2):
        feed |= {name: np.ones((1, seq), np.int64) for name in ("input_ids", "attention_mask")}
        if seq == 1:
            assert raw.run(None, feed)[0].shape == (1, 1, 53)
        else:
            with pytest.raises(Exception, match="seq must be 1: rounds share slots"):
                raw.run(None, feed)
