"""ONNX Runtime computes what PyTorch computes, in every form; and the comparison can fail."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rinsc import ops
from rinsc.backends.onnx import RoundsForm, Session, graph_to_onnx, to_onnx
from rinsc.backends.onnx.write.builder import OpBuilder
from rinsc.backends.onnx.write.ops import ONNX_OPS
from rinsc.backends.onnx.write.site import Site
from rinsc.graph import build_graph, unroll
from rinsc.spec import ModelSpec
from tests.kinds import KINDS
from tests.onnx.models import (
    TOLERANCE,
    lively_model,
    random_given,
    random_ids,
    small_spec,
    torch_logits,
)
from tests.specs import specs

MAX_VISITS = 30  # at the rounds drawn; unrolled graphs take time to load


@st.composite
def drawn_rounds(draw: st.DrawFn, spec: ModelSpec) -> dict[str, int] | int | None:
    """Rounds for some of the repeats, one number for all of them, or none."""
    graph = build_graph(spec)
    written = {loop.name: loop.rounds for loop in graph.dials()}
    if not written:
        return draw(st.sampled_from([None, 1]))
    few = st.integers(1, 4)
    chosen = draw(st.none() | few | st.dictionaries(st.sampled_from(list(written)), few))
    asked = (
        dict.fromkeys(written, chosen) if isinstance(chosen, int) else {**written, **(chosen or {})}
    )
    return chosen if sum(graph.visit_counts(asked).values()) <= MAX_VISITS else 1


@given(data=st.data(), spec=specs(options=True), seed=st.integers(0, 99), batch=st.integers(1, 3))
def test_every_form_equals_torch(
    data: st.DataObject, spec: ModelSpec, seed: int, batch: int
) -> None:
    model = lively_model(spec, seed)
    rounds = data.draw(drawn_rounds(spec), label="rounds")
    numbers = random_given(spec, batch, data.draw(st.integers(1, spec.context), label="seq"), seed)
    expected = torch_logits(model, numbers, rounds)
    forms: tuple[RoundsForm, ...] = ("dynamic", rounds)
    for form in forms:
        exported = to_onnx(model, form)
        exported.check()
        found = Session(exported, threads=1).logits(numbers, rounds)
        np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_nested_repeats_take_rounds_by_name(kind: str) -> None:
    spec = small_spec("((A^2)B)^2(A^3)B", kind=kind, tied_embedding=True)
    model = lively_model(spec)
    session = Session(to_onnx(model, "dynamic"), threads=1)
    numbers = random_given(spec, 2, 11)
    for rounds in (None, 1, 3, {"AB": 3}, {"A_1": 1, "A_2": 4}, {"AB": 1, "A_1": 5, "A_2": 2}):
        np.testing.assert_allclose(
            session.logits(numbers, rounds),
            torch_logits(model, numbers, rounds),
            rtol=0,
            atol=TOLERANCE,
        )


def test_positions_far_out_equal_torch() -> None:
    """Rotary angles grow with the position; both runtimes have to round them alike."""
    spec = small_spec("AB", context=1500, width=32, heads=2, kv_heads=1)
    model = lively_model(spec)
    input_ids = random_ids(spec, 1, 1500)
    np.testing.assert_allclose(
        Session(to_onnx(model), threads=1).logits(input_ids),
        torch_logits(model, input_ids),
        rtol=0,
        atol=TOLERANCE,
    )


def test_an_unrolled_graph_and_plain_arrays_export() -> None:
    spec = small_spec()
    model = lively_model(spec)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    exported = graph_to_onnx(unroll(build_graph(spec), 2), arrays)
    input_ids = random_ids(spec, 1, 5)
    np.testing.assert_allclose(
        Session(exported, threads=1).logits(input_ids),
        torch_logits(model, input_ids, 2),
        rtol=0,
        atol=TOLERANCE,
    )


def test_low_precision_weights_export_in_fp32() -> None:
    spec = small_spec()
    model = lively_model(spec)
    rounded = {name: tensor.bfloat16() for name, tensor in model.state_dict().items()}
    exported = graph_to_onnx(build_graph(spec), rounded)
    model.load_state_dict(rounded)
    input_ids = random_ids(spec, 1, 5)
    np.testing.assert_allclose(
        Session(exported, threads=1).logits(input_ids),
        torch_logits(model, input_ids),
        rtol=0,
        atol=TOLERANCE,
    )


def gap(spec: ModelSpec, form: RoundsForm) -> float:
    """How far the two runtimes are apart, exporting with the lowerings as they now are."""
    model = lively_model(spec)
    input_ids = random_ids(spec, 2, 13)
    found = Session(to_onnx(model, form), threads=1).logits(input_ids)
    return float(np.abs(found - torch_logits(model, input_ids)).max())


@pytest.mark.parametrize("form", [None, "dynamic"])
@pytest.mark.parametrize(
    ("kind", "op_type"),
    [
        ("llama", ops.Add),
        ("llama", ops.Mul),
        ("llama", ops.RMSNorm),
        ("llama", ops.Rope),
        ("llama", ops.Activation),
        ("gpt", ops.Add),
        ("gpt", ops.LayerNorm),
        ("gpt", ops.Activation),
    ],
)
def test_a_dropped_term_shows(
    monkeypatch: pytest.MonkeyPatch, kind: str, op_type: type[ops.Op], form: RoundsForm
) -> None:
    def dropped(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
        return inputs[0]

    spec = small_spec(kind=kind)
    assert gap(spec, form) <= TOLERANCE
    monkeypatch.setitem(ONNX_OPS, op_type, dropped)
    assert gap(spec, form) > 100 * TOLERANCE


@pytest.mark.parametrize("form", [None, "dynamic"])
def test_a_mask_that_is_not_causal_shows(monkeypatch: pytest.MonkeyPatch, form: RoundsForm) -> None:
    def unmasked(op: OpBuilder, at: Site, inputs: list[ir.Value]) -> ir.Value:
        return op.Attention(*inputs)

    changed: type[ops.Op] = ops.Attention
    monkeypatch.setitem(ONNX_OPS, changed, unmasked)
    assert gap(small_spec(), form) > 100 * TOLERANCE


@pytest.mark.parametrize("name", ["A.1.value.weight", "B.0.mlp_norm.weight", "head.weight"])
@pytest.mark.parametrize("form", [None, "dynamic"])
def test_one_changed_number_shows(name: str, form: RoundsForm) -> None:
    spec = small_spec()
    model = lively_model(spec)
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    weights[name].view(-1)[7] += 0.5
    input_ids = random_ids(spec, 2, 13)
    found = Session(graph_to_onnx(build_graph(spec), weights, form), threads=1).logits(input_ids)
    assert np.abs(found - torch_logits(model, input_ids)).max() > 10 * TOLERANCE


def test_exporting_leaves_the_module_as_it_was() -> None:
    model = lively_model(small_spec())
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    to_onnx(model, "dynamic").to_bytes()
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
