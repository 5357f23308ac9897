"""The session: what it runs, and what it refuses in words of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from rinsc.backends.onnx import Session, to_onnx
from rinsc.errors import (
    CheckpointError,
    GraphError,
    LoweringError,
    MissingExtraError,
    RinscError,
    UsageError,
)
from rinsc.graph import Rounds
from tests.onnx.models import lively_model, random_ids, small_spec, torch_logits

SPEC = small_spec()
MODEL = lively_model(SPEC)


@pytest.fixture(scope="module")
def dynamic() -> Session:
    return Session(to_onnx(MODEL, "dynamic"), threads=1)


@pytest.fixture(scope="module")
def fixed() -> Session:
    return Session(to_onnx(MODEL, 2), threads=1)


def test_it_knows_its_spec(dynamic: Session, fixed: Session) -> None:
    assert dynamic.spec == fixed.spec == SPEC
    assert dynamic.rounds == {"A": 3}
    assert fixed.rounds == {"A": 2}


@pytest.mark.parametrize("rounds", [0, -3, 1025, True, 1.5, {"A": 0}])
def test_rounds_that_no_model_runs(dynamic: Session, fixed: Session, rounds: Rounds) -> None:
    for session in (dynamic, fixed):
        with pytest.raises(GraphError) as caught:
            session.logits([[1, 2]], rounds)
        assert caught.value.code == "bad-rounds"


def test_a_repeat_that_does_not_exist(dynamic: Session) -> None:
    with pytest.raises(GraphError) as caught:
        dynamic.logits([[1, 2]], {"B": 2})
    assert caught.value.code == "unknown-repeat"


def test_a_fixed_model_runs_its_own_rounds_alone(fixed: Session) -> None:
    input_ids = random_ids(SPEC, 1, 6)
    for rounds in (None, 2, {"A": 2}):
        np.testing.assert_array_equal(fixed.logits(input_ids, rounds), fixed.logits(input_ids))
    with pytest.raises(LoweringError) as caught:
        fixed.logits(input_ids, 3)
    assert caught.value.code == "fixed-rounds"
    assert "the model was compiled for 2 rounds, not 3" in str(caught.value)
    assert "dynamic" in str(caught.value.hint)


def test_more_tokens_than_the_context(dynamic: Session) -> None:
    with pytest.raises(RinscError) as caught:
        dynamic.logits(np.zeros((1, SPEC.context + 1), np.int64))
    assert caught.value.code == "context-exceeded"


@pytest.mark.parametrize(
    "input_ids",
    [[], [[]], [1, 2], [[1.5]], [[1], [1, 2]], [[-1]], [[53]], [["a"]], [[[1]]]],
)
def test_token_ids_that_are_none(dynamic: Session, input_ids: list[object]) -> None:
    with pytest.raises(RinscError) as caught:
        dynamic.logits(input_ids)  # type: ignore[arg-type]
    assert caught.value.code == "bad-input"


def test_generation_takes_the_likeliest_tokens_of_pytorch(dynamic: Session) -> None:
    ids = [3, 1, 4]
    for _ in range(SPEC.context + 3):
        window = np.array([ids[-SPEC.context :]])
        ids.append(int(torch_logits(MODEL, window, 4)[0, -1].argmax()))
    assert dynamic.generate([3, 1, 4], SPEC.context + 3, rounds=4) == ids[3:]


def test_the_same_seed_draws_the_same_tokens(dynamic: Session) -> None:
    draws = [dynamic.generate([5], 12, temperature=2.0, top_k=40, seed=s) for s in (1, 1, 2)]
    assert draws[0] == draws[1] != draws[2]


def test_generation_from_nothing(dynamic: Session) -> None:
    with pytest.raises(UsageError):
        dynamic.generate([], 3)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(CheckpointError) as caught:
            Session(path)
        assert caught.value.code == "no-such-file"


def test_a_damaged_file(tmp_path: Path) -> None:
    whole = to_onnx(MODEL).to_bytes()
    path = tmp_path / "model.onnx"
    for data in (b"", b"not a model", whole[: len(whole) // 2], whole[:-100]):
        path.write_bytes(data)
        with pytest.raises(CheckpointError) as caught:
            Session(path)
        assert caught.value.code in ("damaged-model", "foreign-model")
        assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rinsc.spec", None),
        ("rinsc.rounds", None),
        ("rinsc.spec", "signature = ["),
        ("rinsc.spec", 'signature = "A"'),
        ("rinsc.spec", "width = 3"),
        ("rinsc.rounds", "[3]"),
        ("rinsc.rounds", '{"A": null}'),
    ],
)
def test_a_model_that_does_not_say_what_it_is(tmp_path: Path, key: str, value: str | None) -> None:
    proto = onnx.load_from_string(to_onnx(MODEL).to_bytes())
    kept = {prop.key: prop.value for prop in proto.metadata_props}
    del proto.metadata_props[:]
    changed = {**kept, key: value}
    onnx.helper.set_model_props(proto, {k: v for k, v in changed.items() if v is not None})
    path = tmp_path / "foreign.onnx"
    onnx.save(proto, path)
    with pytest.raises(CheckpointError) as caught:
        Session(path)
    assert caught.value.code == "foreign-model"


def test_without_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError) as caught:
        Session("model.onnx")
    assert "rinsc[cpu]" in str(caught.value)


def test_running_needs_neither_torch_nor_the_exporter(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    to_onnx(MODEL, "dynamic").save(path)
    script = f"""
import sys
for name in ("torch", "onnx", "onnx_ir"):
    sys.modules[name] = None
from rinsc.backends.onnx import Session
print(Session({str(path)!r}).generate([1], 3))
from rinsc.errors import MissingExtraError
try:
    from rinsc.backends.onnx import to_onnx
except MissingExtraError as error:
    print(error)
"""
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert output.startswith("[")
    assert "rinsc[onnx]" in output


@pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2"])
def test_threads_that_are_no_number_of_them(threads: Any) -> None:
    with pytest.raises(UsageError, match="threads"):
        Session(to_onnx(lively_model(small_spec())), threads=threads)
