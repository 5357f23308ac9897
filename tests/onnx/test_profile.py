"""FLOPs that ONNX Runtime executed, against the cost model."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rinsc import ops
from rinsc.backends.onnx import RoundsForm, counted_flops, to_onnx
from rinsc.backends.onnx.write.builder import OpBuilder
from rinsc.backends.onnx.write.ops import ONNX_OPS
from rinsc.backends.onnx.write.site import Site
from rinsc.cost import forward_flops
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec
from tests.onnx.models import lively_model, random_given, random_ids, small_spec
from tests.specs import specs


@settings(max_examples=12)
@given(spec=specs(max_visits=6), batch=st.integers(1, 2), seq=st.integers(1, 16))
def test_executed_flops_equal_the_cost_model(spec: ModelSpec, batch: int, seq: int) -> None:
    model = lively_model(spec)
    graph = build_graph(spec)
    rounds = 2 if any(graph.loops()) else None
    expected = forward_flops(graph, seq, batch=batch, rounds=rounds).total
    numbers = random_given(spec, batch, seq)
    forms: tuple[RoundsForm, ...] = ("dynamic", rounds)
    for form in forms:
        assert counted_flops(to_onnx(model, form), numbers, rounds) == expected


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_the_dial_costs_what_the_cost_model_says(rounds: int) -> None:
    spec = small_spec("((A^2)B)^2(A^3)B")
    exported = to_onnx(lively_model(spec), "dynamic")
    expected = forward_flops(build_graph(spec), 9, batch=2, rounds=rounds).total
    assert counted_flops(exported, random_ids(spec, 2, 9), rounds) == expected


def test_a_product_too_many_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    lower = ONNX_OPS[ops.Linear]

    def twice(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
        # Of the negative: the runtime computes equal products once.
        return op.Sub(lower(op, at, inputs), lower(op, at, [op.Neg(inputs[0])]))

    changed: type[ops.Op] = ops.Linear
    monkeypatch.setitem(ONNX_OPS, changed, twice)
    spec = small_spec("AB")
    expected = forward_flops(build_graph(spec), 5).total
    counted = counted_flops(to_onnx(lively_model(spec)), random_ids(spec, 1, 5))
    assert counted > 1.5 * expected
