"""Layer kinds and operations: complete in every backend, and checked while they are traced."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rinsc.backends.onnx.ops import ONNX_OPS
from rinsc.backends.torch.ops import TORCH_OPS
from rinsc.errors import GraphError
from rinsc.kinds import KINDS
from rinsc.layers import LayerKind, layer_kind, trace_programs
from rinsc.layers.llama import embed, head
from rinsc.layers.rotary import rotary_sides
from rinsc.ops import Add, Linear, Op, RMSNorm
from rinsc.program import Builder, Value
from rinsc.spec import ModelSpec, model_spec

LayerFunction = Callable[[Builder, Value, dict[str, Value], ModelSpec], Value]


def test_every_operation_is_lowered_by_every_backend() -> None:
    operations = set(Op.__subclasses__())
    assert operations == set(TORCH_OPS) == set(ONNX_OPS)


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_kinds_trace_and_name_their_parts(kind: str) -> None:
    programs = trace_programs(model_spec("AB", preset="tiny", kind=kind))
    assert isinstance(layer_kind(kind), LayerKind)
    for program in programs.every:
        assert all(node.part for node in program.nodes)
        names = [param.name for param in program.params]
        assert len(set(names)) == len(names)


def two_of_a_name(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    return b(Linear(spec.width), b(Linear(spec.width), x, name="a"), name="a")


def no_name(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    return b(RMSNorm(1e-5), x)


def odd_name(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    return b(RMSNorm(1e-5), x, name="a.b")


def keyword(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    return b(RMSNorm(1e-5), x, name="lambda")


def shape_changed(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    return b(Linear(7), x, name="a")


def shapes_differ(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    return b(Add(), x, b(Linear(7), x, name="a"))


@pytest.mark.parametrize(
    ("layer", "code"),
    [
        (two_of_a_name, "bad-operation-name"),
        (no_name, "bad-operation-name"),
        (odd_name, "bad-operation-name"),
        (keyword, "bad-operation-name"),
        (shape_changed, "layer-changes-shape"),
        (shapes_differ, "shapes-differ"),
    ],
)
def test_a_broken_kind_is_refused_while_it_is_traced(
    layer: LayerFunction, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rinsc.layers.llama.KIND", LayerKind(embed, layer, head, rotary_sides))
    trace_programs.cache_clear()
    try:
        with pytest.raises(GraphError) as caught:
            trace_programs(model_spec("AB", preset="tiny"))
    finally:
        trace_programs.cache_clear()
    assert caught.value.code == code
    assert caught.value.hint


def test_an_odd_head_width_is_refused_before_anything_is_built() -> None:
    with pytest.raises(GraphError, match="odd-head-width"):
        trace_programs(model_spec("AB", preset="tiny", width=60, heads=4))
