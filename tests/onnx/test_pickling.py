"""Exported models are pickled and copied; sessions, which cannot be, say so."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rinsc
from rinsc.backends.onnx import OnnxModel
from rinsc.errors import LoweringError
from tests.onnx.models import small_spec

MODULE = rinsc.to_torch(small_spec("P(A^3{adapter=linear}B)"))
IDS = np.arange(10).reshape(2, 5)
FORMS: dict[str, dict[str, Any]] = {
    "unrolled": {},
    "dial": {"rounds": "dynamic"},
    "cached": {"cache": True},
    "gated": {"rounds": 3, "cache": True, "gated": True},
    "bf16": {"cache": True, "precision": "bf16"},
    "int4": {"cache": True, "precision": "int4"},
    "int8-dynamic": {"precision": "int8-dynamic"},
}
COPIES: dict[str, Callable[[Any], Any]] = {
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("form", FORMS)
def test_a_copy_is_the_same_file(form: str, way: str, tmp_path: Path) -> None:
    model = rinsc.to_onnx(MODULE, **FORMS[form])
    before = model.to_bytes()
    again = COPIES[way](model)
    assert isinstance(again, OnnxModel)
    assert again.to_bytes() == before
    assert model.to_bytes() == before
    assert again.metadata == model.metadata
    for name, made in (("one", model), ("two", again)):
        made.save(tmp_path / f"{name}.onnx", external_data_over=0)
    one, two = (tmp_path / f"{name}.onnx.data" for name in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()
    if form != "bf16":  # which a CPU does not run
        expected, found = (rinsc.Session(each).logits(IDS) for each in (model, again))
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("way", COPIES)
def test_a_session_says_that_it_cannot(way: str) -> None:
    session = rinsc.Session(rinsc.to_onnx(MODULE, cache=True))
    _, cache = session.step(IDS)
    for made in (session, cache):
        with pytest.raises(LoweringError) as caught:
            COPIES[way](made)
        assert caught.value.code == "not-picklable"
        assert "path" in str(caught.value.hint)
