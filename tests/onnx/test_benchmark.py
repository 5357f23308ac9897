"""What is measured of a session: turns, bounds of time, and costs against what is in the file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rinsc.backends.onnx import OnnxModel, Session, counted_flops, to_onnx
from rinsc.backends.onnx.precision import parse_precision
from rinsc.backends.onnx.run.benchmark import (
    GENERATIONS,
    Speed,
    measure_speed,
    metadata_of,
    own_memory_bytes,
    token_cost,
)
from rinsc.graph import Rounds, Visit, build_graph, unroll
from rinsc.spec import ModelSpec
from tests.onnx.models import lively_model, random_ids, small_spec

FORMS: dict[str, dict[str, Any]] = {
    "dial": {"rounds": "dynamic", "cache": True},
    "gated": {"rounds": 3, "cache": True, "gated": True},
    "portable": {"rounds": "dynamic", "cache": True, "portable": True},
    "no cache": {"rounds": "dynamic"},
}


def wide_spec(signature: str = "(A^3)B", **changes: Any) -> ModelSpec:
    """Dimensions that quantization in blocks of 32 fills."""
    sizes = {"width": 64, "mlp_width": 96, "vocab_size": 128, "tied_embedding": False}
    return small_spec(signature, **{**sizes, **changes})


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_measured(form: str) -> None:
    exported = to_onnx(lively_model(small_spec()), **FORMS[form])
    before = own_memory_bytes()
    speeds = measure_speed(Session(exported, threads=1), (1, 3), 5, 7, memory_before=before)
    for speed in speeds:
        assert 0 < speed.decode_ms_p10 <= speed.decode_ms
        assert speed.first_token_ms > 0
        assert speed.tokens_per_second == pytest.approx(1000 / speed.decode_ms)
        assert speed.generations == GENERATIONS - 1
        assert speed.decoded_tokens == 7 * (GENERATIONS - 1)
        assert (speed.memory_bytes is None) is (before is None)


def test_the_whole_context_can_be_filled() -> None:
    spec = small_spec("AB")
    session = Session(to_onnx(lively_model(spec), cache=True))
    (speed,) = measure_speed(session, (None,), 1, spec.context - 1)
    assert speed.decoded_tokens == (spec.context - 1) * (GENERATIONS - 1)
    (speed,) = measure_speed(session, (None,), spec.context - 1, 1)
    assert speed.decoded_tokens == GENERATIONS - 1


def slow_session(asked: list[Rounds], clock: list[float]) -> Any:
    """A model without a cache that takes a second for each round."""

    def logits(ids: Any, rounds: int) -> Any:
        asked.append(rounds)
        clock[0] += rounds
        return np.zeros((*ids.shape, 8), np.float32)

    return SimpleNamespace(spec=SimpleNamespace(vocab_size=8), has_cache=False, logits=logits)


def measured(
    monkeypatch: pytest.MonkeyPatch, seconds: float, new_tokens: int = 3
) -> tuple[Sequence[Speed], list[Rounds], float]:
    asked: list[Rounds] = []
    clock = [0.0]
    monkeypatch.setattr("rinsc.backends.onnx.run.benchmark.time.perf_counter", lambda: clock[0])
    told: list[float] = []
    session = slow_session(asked, clock)
    found = measure_speed(session, (1, 2), 2, new_tokens, seconds=seconds, observe=told.append)
    assert told == sorted(told)
    assert 0 < told[-1] <= 1
    return found, asked, clock[0]


def test_rounds_take_turns_in_both_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    (one, two), asked, _ = measured(monkeypatch, 1e6)
    warm = [1] * 8 + [2] * 8
    turns = [each for number in range(1, GENERATIONS) for each in ((2, 1), (1, 2))[number % 2 == 0]]
    assert asked == warm + [each for each in turns for _ in range(4)]
    assert (one.decode_ms, two.decode_ms) == (1000, 2000)
    assert (one.first_token_ms, two.first_token_ms) == (1000, 2000)


@pytest.mark.parametrize("seconds", [1.0, 10.0, 100.0])
def test_the_time_is_bounded(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """All but what cannot be divided: the warm-up, a prompt and a token of each of the rounds."""
    found, _, spent = measured(monkeypatch, seconds, new_tokens=1000)
    assert all(speed.decoded_tokens > 0 for speed in found)
    assert spent <= 2 * seconds + 2 * (1 + 2) * (1 + 1 + 1)


MATRICES = ["fp32", "fp16", "int8-dynamic", "int8", "int4", "int4/128", "int4 fp16:A"]


def matrix_bytes(model: OnnxModel, owner: str) -> int:
    """Bytes of the matrices of a block, or of the head, as they stand in the file."""
    found = 0
    for name, value in model.ir.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and name.startswith(f"{owner}.") and len(tensor.shape) > 1:
            found += tensor.nbytes
    return found


def touched_bytes(model: OnnxModel, spec: ModelSpec, rounds: int, seen: int, element: int) -> int:
    """A plain walk over the schedule."""
    graph = build_graph(spec)
    total = matrix_bytes(model, "head")
    for visit in unroll(graph, rounds).steps():
        assert isinstance(visit, Visit)
        total += matrix_bytes(model, visit.block)
        total += graph.blocks[visit.block].layers * 2 * spec.kv_heads * 16 * seen * element
    return total


@pytest.mark.parametrize("precision", MATRICES)
def test_bytes_are_those_of_the_file(precision: str) -> None:
    # 256 input features fill the larger blocks too, and two blocks a byte of zero points.
    sizes: dict[str, Any] = {"mlp_width": 64}
    if "/" in precision:
        sizes = {"width": 256, "mlp_width": 256, "heads": 16}
    spec = wide_spec(**sizes)
    model = to_onnx(lively_model(spec), "dynamic", cache=True, precision=precision)
    element = 2 if precision == "fp16" else 4
    for rounds in (1, 4):
        found = token_cost(build_graph(spec), rounds, 11, parse_precision(precision), cached=True)
        assert found.touched_bytes == touched_bytes(model, spec, rounds, 11, element)
    assert found.touched_bytes != touched_bytes(model, spec, 3, 11, element)
    assert found.touched_bytes != touched_bytes(model, spec, 4, 12, element)


def test_flops_are_those_of_the_kernels_that_ran() -> None:
    spec = small_spec()
    model = to_onnx(lively_model(spec), "dynamic")
    fp32 = parse_precision("fp32")
    flops = {}
    for rounds in (1, 2, 5):
        flops[rounds] = counted_flops(model, random_ids(spec, 1, 9), rounds)
        whole = token_cost(build_graph(spec), rounds, 9, fp32, cached=False)
        assert whole.matmul_flops == flops[rounds]
        behind = token_cost(build_graph(spec), rounds, 9, fp32, cached=True)
        assert behind.matmul_flops * 9 == flops[rounds]
    assert len(set(flops.values())) == 3


def test_metadata_of_a_file(tmp_path: Path) -> None:
    model = to_onnx(lively_model(small_spec()), 2, cache=True, precision="int4")
    model.save(tmp_path / "model.onnx", external_data_over=0)
    found = dict(metadata_of(tmp_path / "model.onnx"))
    assert found.pop("rinsc.data").startswith('["model.onnx.data"')
    assert found == model.metadata


@pytest.mark.skipif(own_memory_bytes() is None, reason="the system does not tell")
def test_memory_is_what_is_in_use() -> None:
    before = own_memory_bytes()
    held = np.ones(1 << 23)  # 64 MiB
    after = own_memory_bytes()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(held.nbytes, rel=0.1)
