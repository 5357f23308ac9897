"""What an exported graph looks like: weights once, names, types, size, metadata."""

from __future__ import annotations

import json
import tomllib
from collections import Counter

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given

from rinsc.__about__ import __version__
from rinsc.backends.onnx import RoundsForm, graph_to_onnx, to_onnx
from rinsc.backends.torch import to_torch
from rinsc.errors import CheckpointError, GraphError, LoweringError
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec, model_spec
from tests.kinds import KINDS
from tests.onnx.models import all_graphs, all_nodes, lively_model, small_spec, unique_bytes
from tests.specs import specs

FORMS: list[RoundsForm] = [None, "dynamic"]


def weight_initializers(graph: ir.Graph) -> list[str]:
    names = [str(name) for name in graph.initializers]
    return [name for name in names if not name.startswith("constants/")]


@given(spec=specs(options=True))
def test_every_weight_is_stored_once(spec: ModelSpec) -> None:
    model = lively_model(spec)
    for form in FORMS:
        graph = to_onnx(model, form).ir.graph
        assert sorted(weight_initializers(graph)) == sorted(model.state_dict())
        for body in list(all_graphs(graph))[1:]:
            assert not body.initializers
        constants = [v for n, v in graph.initializers.items() if n.startswith("constants/")]
        assert all(v.const_value is not None and v.const_value.size <= 64 for v in constants)
        # A weight that no node reads would be one that was stored and copied somewhere else.
        read = {value.name for node in all_nodes(graph) for value in node.inputs if value}
        assert read >= set(graph.initializers)


@pytest.mark.parametrize("text", ["A[2000]{each=32}", "A[100]^100", "A[9]^1000{inject=add}"])
def test_files_without_end_are_refused_at_once(text: str) -> None:
    spec = model_spec(text, preset="tiny", width=8, heads=1, kv_heads=1)
    graph = build_graph(spec)
    with pytest.raises(LoweringError) as caught:
        graph_to_onnx(graph, {})
    assert caught.value.code == "too-many-layers"


@given(spec=specs(options=True))
def test_names_are_unique_and_every_value_has_type_and_shape(spec: ModelSpec) -> None:
    model = lively_model(spec)
    for form in FORMS:
        graph = to_onnx(model, form).ir.graph
        nodes = all_nodes(graph)
        values = [value for node in nodes for value in node.outputs]
        values += [value for each in all_graphs(graph) for value in each.inputs]
        for names in ([node.name for node in nodes], [value.name for value in values]):
            assert Counter(names).most_common(1)[0][1] == 1
            assert all(names)
        assert all(value.type is not None and value.shape is not None for value in values)


@pytest.mark.parametrize("form", FORMS)
def test_names_say_where_a_node_stands(form: RoundsForm) -> None:
    graph = to_onnx(lively_model(small_spec()), form).ir.graph
    names = {node.name for node in all_nodes(graph)}
    scope = "loop_A/" if form == "dynamic" else "visit_3/"
    assert f"{scope}A.0/attention/query" in names
    assert {"B.1/mlp/down", "B.1/mlp/down_add", "B.1/attention/output_add"} <= names
    assert [value.name for value in graph.outputs] == ["logits"]


def test_only_standard_operators_of_the_stated_version() -> None:
    for kind in sorted(KINDS):
        exported = to_onnx(lively_model(small_spec(kind=kind)), "dynamic").ir
        assert exported.graph.opset_imports == {"": 23}
        assert exported.ir_version == 10
        assert {node.domain for node in all_nodes(exported.graph)} == {""}


def test_matrices_share_memory_with_the_module() -> None:
    model = lively_model(small_spec())
    graph = to_onnx(model).ir.graph
    for name, tensor in model.state_dict().items():
        held = graph.initializers[name].const_value
        assert held is not None
        assert np.shares_memory(held.numpy(), tensor.numpy())


def test_a_tied_table_is_stored_as_it_is_and_never_turned() -> None:
    model = lively_model(small_spec(tied_embedding=True))
    graph = to_onnx(model).ir.graph
    assert "head.weight" not in graph.initializers
    readers = [node.op_type for node, _ in graph.initializers["embedding.weight"].uses()]
    assert sorted(readers) == ["Gather", "Gemm"]


@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_the_file_is_hardly_larger_than_its_weights(
    kind: str, tied: bool, form: RoundsForm
) -> None:
    model = lively_model(small_spec(kind=kind, tied_embedding=tied, context=4096))
    assert len(to_onnx(model, form).to_bytes()) <= unique_bytes(model) * 1.02 + 64 * 1024


def test_the_dynamic_form_does_not_grow_with_the_rounds() -> None:
    sizes = []
    for rounds in (2, 9):
        spec = small_spec(f"(A^{rounds})B")
        sizes.append(len(to_onnx(lively_model(spec), "dynamic").to_bytes()))
    assert sizes[0] == sizes[1]


def test_a_dynamic_graph_without_repeats_is_the_plain_one() -> None:
    model = lively_model(small_spec("AB"))
    plain, dynamic = (to_onnx(model, form).ir.graph for form in FORMS)
    assert [node.name for node in plain] == [node.name for node in dynamic]
    assert [value.name for value in dynamic.inputs] == ["input_ids"]


def test_inputs_and_output() -> None:
    proto = onnx.load_from_string(
        to_onnx(lively_model(small_spec("((A^2)B)^2(A^3)B")), "dynamic").to_bytes()
    )
    ports = [*proto.graph.input, *proto.graph.output]
    shapes = {
        port.name: [dim.dim_param or dim.dim_value for dim in port.type.tensor_type.shape.dim]
        for port in ports
    }
    assert shapes == {
        "input_ids": ["batch", "seq"],
        "rounds_AB": [],
        "rounds_A_1": [],
        "rounds_A_2": [],
        "logits": ["batch", "seq", 53],
    }
    kinds = [port.type.tensor_type.elem_type for port in ports]
    assert kinds == [onnx.TensorProto.INT64] * 4 + [onnx.TensorProto.FLOAT]


@pytest.mark.parametrize(
    ("form", "rounds"), [(None, {"A": 3}), (5, {"A": 5}), ("dynamic", {"A": 3})]
)
def test_metadata(form: RoundsForm, rounds: dict[str, int]) -> None:
    spec = small_spec()
    metadata = to_onnx(lively_model(spec), form).metadata
    assert metadata["rinsc.version"] == __version__
    assert metadata["rinsc.signature"] == "(A^3)B"
    assert metadata["rinsc.form"] == ("dynamic" if form == "dynamic" else "fixed")
    assert json.loads(metadata["rinsc.rounds"]) == rounds
    assert metadata["rinsc.fingerprint"] == fingerprint(spec)
    values = tomllib.loads(metadata["rinsc.spec"])
    assert model_spec(values.pop("signature"), **values) == spec


def test_weights_of_another_model_are_refused() -> None:
    weights = dict(lively_model(small_spec()).state_dict())
    missing = {name: value for name, value in weights.items() if name != "A.1.up.weight"}
    graph = build_graph(small_spec())
    for wrong, word in [
        (missing, "A.1.up.weight"),
        ({**weights, "C.0.up.weight": weights["A.0.up.weight"]}, "C.0.up.weight"),
        ({**weights, "head.weight": weights["head.weight"][:-1]}, "(52, 24)"),
    ]:
        with pytest.raises(CheckpointError) as caught:
            graph_to_onnx(graph, wrong)
        assert caught.value.code == "wrong-weights"
        assert word in str(caught.value)


@pytest.mark.parametrize("rounds", [0, -1, {"A": 0}, {"C": 2}, 10**9])
def test_rounds_that_cannot_be_exported(rounds: int | dict[str, int]) -> None:
    with pytest.raises(GraphError):
        to_onnx(lively_model(small_spec()), rounds)


def test_a_model_without_numbers_is_refused() -> None:
    with pytest.raises(CheckpointError, match="meta"):
        to_onnx(to_torch(small_spec(), device="meta"))


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(GraphError) as caught:
        to_onnx(lively_model(small_spec()), "dynamical")
    assert caught.value.code == "bad-rounds"
