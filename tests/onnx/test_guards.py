"""What raw ONNX Runtime says when it is fed what the model cannot run."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest

from rinsc.backends.onnx import to_onnx
from tests.onnx.models import lively_model, random_ids, small_spec

SPEC = small_spec("((A^2)B)^2")
CONTEXT = SPEC.context
INT64 = np.iinfo(np.int64)


@pytest.fixture(scope="module")
def raw() -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    data = to_onnx(lively_model(SPEC), "dynamic").to_bytes()
    return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def run(raw: Any, seq: int = 5, outer: int = 1, inner: int = 1) -> np.ndarray:
    feed = {"rounds_AB": np.array(outer), "rounds_A": np.array(inner)}
    logits: np.ndarray = raw.run(None, {"input_ids": random_ids(SPEC, 1, seq), **feed})[0]
    return logits


@pytest.mark.parametrize("rounds", [0, -1, 1025, -1024, INT64.min, INT64.max])
@pytest.mark.parametrize("name", ["rounds_AB", "rounds_A"])
def test_rounds_out_of_range_fail_and_name_the_input(raw: Any, name: str, rounds: int) -> None:
    with pytest.raises(Exception, match=f"Name:'{name} must be from 1 to 1024'"):
        run(raw, **{"outer" if name == "rounds_AB" else "inner": rounds})


@pytest.mark.parametrize("seq", [0, CONTEXT + 1, 2 * CONTEXT, 10 * CONTEXT])
def test_sequences_out_of_range_fail_and_say_why(raw: Any, seq: int) -> None:
    with pytest.raises(Exception, match=f"Name:'seq must be from 1 to {CONTEXT}'"):
        run(raw, seq=seq)


@pytest.mark.parametrize("seq", [1, CONTEXT])
def test_the_whole_context_runs(raw: Any, seq: int) -> None:
    assert run(raw, seq=seq).shape == (1, seq, SPEC.vocab_size)


def test_the_most_rounds_run(raw: Any) -> None:
    assert run(raw, seq=1, inner=1024).shape == (1, 1, SPEC.vocab_size)


def test_a_fixed_model_checks_its_context_too() -> None:
    data = to_onnx(lively_model(small_spec())).to_bytes()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    raw = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    with pytest.raises(Exception, match="seq must be from 1 to 19"):
        raw.run(None, {"input_ids": np.zeros((2, 20), np.int64)})
