"""Padding in plain ONNX Runtime: any mask, in every fused form, against PyTorch without padding."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rinsc.backends.onnx import OnnxModel, to_onnx
from rinsc.backends.onnx.write.cache import Packing
from rinsc.backends.torch import CompiledModule
from tests.onnx.models import lively_model, random_ids, small_spec, torch_logits

Ids = npt.NDArray[np.int64]
Logits = npt.NDArray[np.float32]

CLOSE = 1e-4
TOKENS = 10
KINDS = [("llama", 16), ("llama", 8), ("gpt", 8), ("ouro", 16)]  # and the width of a head
FORMS: dict[str, tuple[Any, dict[str, Any]]] = {
    "fixed": (None, {}),
    "dial": ("dynamic", {"rounds_A": np.array(2)}),
    "gated": (3, {"depth": np.array(2)}),
}


class Plain:
    """A file of ours as a stranger runs it: onnxruntime, the names of the inputs, and a mask."""

    def __init__(self, exported: OnnxModel, dials: dict[str, Any], batch: int) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        providers = ["CPUExecutionProvider"]
        self.session = onnxruntime.InferenceSession(exported.to_bytes(), options, providers)
        self.dials = dials
        sizes = {"batch": batch, "past": 0, "rounds_A": 2}
        self.past = {
            slot.name: np.zeros([sizes.get(size, size) for size in slot.shape], np.float32)
            for slot in self.session.get_inputs()
            if slot.name.startswith("past_key_values")
        }

    def __call__(self, ids: Ids, mask: Ids) -> Logits:
        feed = {"input_ids": ids, "attention_mask": mask, **self.dials, **self.past}
        logits, *present = self.session.run(None, feed)
        self.past = dict(zip(self.past, present, strict=True))
        return np.asarray(logits)


def exported_as(model: CompiledModule, form: str) -> OnnxModel:
    return to_onnx(model, FORMS[form][0], cache=True, gated=form == "gated")


def model_of(kind: str, head: int) -> CompiledModule:
    return lively_model(small_spec("(A^2)B", kind=kind, layers=2, width=4 * head))


def check(model: CompiledModule, run: Plain, ids: Ids, mask: Ids, first: int) -> None:
    """A prompt of ``first`` columns, then one at a time, against each row without its padding."""
    columns = [slice(0, first), *(slice(i, i + 1) for i in range(first, ids.shape[1]))]
    found = np.concatenate([run(ids[:, c], mask[:, : c.stop]) for c in columns], axis=1)
    for row, seen in zip(range(len(ids)), mask.astype(bool), strict=True):
        expected = torch_logits(model, ids[row, seen][None], 2)[0]
        scale = 1 + np.abs(expected).max()
        assert np.abs(found[row, seen] - expected).max() <= CLOSE * scale


@settings(max_examples=12)
@given(
    kind=st.sampled_from(KINDS),
    form=st.sampled_from(sorted(FORMS)),
    first=st.integers(1, TOKENS),
    data=st.data(),
)
def test_any_mask(kind: tuple[str, int], form: str, first: int, data: st.DataObject) -> None:
    model = model_of(*kind)
    rows = st.lists(st.integers(0, 1), min_size=TOKENS, max_size=TOKENS).filter(any)
    mask = np.array([data.draw(rows) for _ in range(3)], np.int64)
    run = Plain(exported_as(model, form), FORMS[form][1], batch=3)
    check(model, run, random_ids(model.spec, 3, TOKENS), mask, first)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_prompts_that_are_padded_on_the_left(form: str) -> None:
    model = model_of("llama", 16)
    mask = np.ones((2, TOKENS), np.int64)
    mask[1, :4] = 0
    run = Plain(exported_as(model, form), FORMS[form][1], batch=2)
    check(model, run, random_ids(model.spec, 2, TOKENS), mask, TOKENS - 3)


def test_sabotage_states_that_stay_packed_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Packing, "unpacked", lambda self, op, x: x)
    with pytest.raises(AssertionError):
        test_prompts_that_are_padded_on_the_left("fixed")


def test_a_mask_as_wide_as_the_memory_of_the_cache() -> None:
    """What a runtime gives that replays one graph: ones for all tokens so far, then zeros."""
    model = model_of("llama", 16)
    run = Plain(exported_as(model, "fixed"), {}, batch=2)
    ids = random_ids(model.spec, 2, 7)
    width = model.spec.context
    run(ids[:, :4], np.ones((2, 4), np.int64))
    for name, value in run.past.items():
        room = np.zeros((*value.shape[:2], width, value.shape[3]), np.float32)
        room[:, :, :4] = value
        run.past[name] = room
    for index in (4, 5, 6):
        mask = np.zeros((2, width), np.int64)
        mask[:, : index + 1] = 1
        found = run(ids[:, index : index + 1], mask)[:, 0]
        with torch.no_grad():
            expected = model(torch.from_numpy(ids[:, : index + 1]), rounds=2)[:, -1].numpy()
        np.testing.assert_allclose(
            found, expected, rtol=0, atol=CLOSE * (1 + np.abs(expected).max())
        )
