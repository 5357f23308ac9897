"""One file of gated rounds against PyTorch, and to the bit against a file of each number."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from itertools import product

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.torch import CompiledModule
from rinsc.backends.torch.decoding import cached_module
from rinsc.errors import LoweringError
from rinsc.graph import Rounds
from rinsc.layers import layer_kind
from rinsc.spec import ModelSpec
from tests.kinds import KINDS
from tests.onnx.models import all_nodes, lively_model, random_ids, small_spec, torch_logits
from tests.specs import specs

CAUSAL = [kind for kind in KINDS if layer_kind(kind).causal]
CLOSE = 1e-4
PACKED_ROWS = 128
PROMPT, TOKENS = 3, 7

Logits = npt.NDArray[np.float32]


def stepped(session: Session, input_ids: npt.NDArray[np.int64], rounds: Rounds = None) -> Logits:
    """Logits of a prompt, and of each token after it."""
    logits, past = session.step(input_ids[:, :PROMPT], rounds=rounds)
    made = [logits.copy()]
    for place in range(PROMPT, TOKENS):
        logits, past = session.step(input_ids[:, place : place + 1], past, rounds=rounds)
        made.append(logits.copy())
    return np.concatenate(made, axis=1)


def torch_stepped(
    model: CompiledModule, input_ids: npt.NDArray[np.int64], rounds: Rounds = None
) -> Logits:
    cached, given = cached_module(model).eval(), torch.from_numpy(input_ids)
    with torch.no_grad():
        logits, past = cached(given[:, :PROMPT], rounds=rounds)
        made = [logits]
        for place in range(PROMPT, TOKENS):
            logits, past = cached(given[:, place : place + 1], past, rounds=rounds)
            made.append(logits)
    whole: Logits = torch.cat(made, dim=1).numpy()
    return whole


def nested_rows(graph: ir.Graph, depth: int = 0) -> Iterator[int]:
    """The rows of matrices that are multiplied with in an ``If`` within an ``If``."""
    for node in graph:
        matrix = node.inputs[1] if node.op_type == "MatMul" else None
        if matrix is not None and matrix.is_initializer() and depth > 1:
            yield matrix.shape[0]  # type: ignore[index,misc]  # of an initializer, a number
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from nested_rows(attribute.as_graph(), depth + (node.op_type == "If"))


def check_depths(
    model: CompiledModule, most: Rounds, depths: Iterable[Rounds], precision: str = "fp32"
) -> None:
    """The file of the ``most`` rounds gives at others the very bits of the file of those.

    But for two things that ONNX Runtime does otherwise: it joins LayerNormalization with the sum
    before it, though not where an ``If`` stands between the two; and in an ``If`` within an ``If``
    it lays no matrix out ahead, so that more than `PACKED_ROWS` products are summed in other steps.
    """
    input_ids = random_ids(model.spec, 2, TOKENS)
    exported = to_onnx(model, most, cache=True, gated=True, precision=precision)
    gated = Session(exported, threads=1)
    graph = exported.ir.graph
    norms = any(node.op_type == "LayerNormalization" for node in all_nodes(graph))
    exact = not norms and not any(rows > PACKED_ROWS for rows in nested_rows(graph))
    for rounds in depths:
        found = stepped(gated, input_ids, rounds)
        fixed = Session(to_onnx(model, rounds, cache=True, precision=precision), threads=1)
        expected = stepped(fixed, input_ids, rounds)
        scale = 1 + np.abs(expected).max()
        assert np.abs(found - expected).max() <= (0 if exact else CLOSE * scale)
        if precision == "fp32":
            single = torch_stepped(model, input_ids, rounds)
            double = torch_stepped(model.double(), input_ids, rounds)
            model.float()
            rounding = np.abs(single - double).max()  # a deep model of random weights amplifies it
            assert np.abs(found - double).max() <= CLOSE * scale + 4 * rounding


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        *(("A^3B", kind) for kind in CAUSAL),
        ("A^3{adapter=linear}B", "llama"),
        ("A^3{adapter=lora(2), adapter_by=count}B", "gpt"),
        ("A^3{adapter=shared(2)}B", "llama"),
        ("A^3{kv=first}B", "llama"),
        ("A^3{kv=last}B", "llama"),
        ("P A^3{inject=concat, init=learned, kv=last} B", "ouro"),
        ("P A^3{inject=add, init=noise, adapter=gate} B", "llama"),
    ],
)
def test_every_depth_is_the_model_of_so_many_rounds(text: str, kind: str) -> None:
    check_depths(lively_model(small_spec(text, layers=3, width=32, kind=kind)), 3, (1, 2, 3))


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_weights_in_few_bits(precision: str) -> None:
    model = lively_model(small_spec("(A^3)B", width=32))
    check_depths(model, 3, (1, 2, 3), precision)


@pytest.mark.parametrize(
    "text",
    [
        "A^2 B^3",
        "(A^2 B)^3{adapter=linear, adapter_by=count}",
        "(A^2{kv=last})^2{kv=first} B",
        "((AB)^2{kv=first} B)^2{kv=last}",
        "(A^3{kv=first} B)^3{kv=last}",
        "(A^3 B)^3{kv=first}",
        "(A^3 B)^3{kv=last}",
    ],
)
@pytest.mark.parametrize("width", [24, 32])  # of standard operators, and of fused ones
def test_several_repeats(text: str, width: int) -> None:
    model = lively_model(small_spec(text, layers=2, width=width))
    names = [loop.name for loop in model.graph.dials()]
    assert len(names) == 2
    depths = [dict(zip(names, counts, strict=True)) for counts in product((1, 2), (1, 3))]
    check_depths(model, 3, depths)


@pytest.mark.parametrize("width", [128, 144])
def test_wide_matrices_in_rounds_of_rounds(width: int) -> None:
    model = lively_model(small_spec("(A^2B)^2", layers=2, width=width))
    check_depths(model, 2, [2])
    graph = to_onnx(model, 2, cache=True, gated=True).ir.graph
    assert max(nested_rows(graph)) == width


@settings(max_examples=15)
@given(
    spec=specs(options=True, kinds=CAUSAL, max_visits=6),
    head_dim=st.sampled_from([8, 16]),
    data=st.data(),
)
def test_any_signature(spec: ModelSpec, head_dim: int, data: st.DataObject) -> None:
    if any(not layer_kind(kind).causal for kind in spec.block_kinds.values()):
        return
    model = lively_model(dataclasses.replace(spec, width=spec.heads * head_dim))
    most = {loop.name: data.draw(st.integers(1, 3)) for loop in model.graph.dials()}
    assume(model.graph.executed_layers(most) <= 60)  # rounds of rounds multiply
    asked = {name: data.draw(st.integers(1, count)) for name, count in most.items()}
    check_depths(model, most, [asked or None])


@pytest.mark.parametrize("cache", [False, True])
def test_standard_operators_too(cache: bool) -> None:
    model = lively_model(small_spec("(A^3)B"))
    exported = to_onnx(model, cache=cache, portable=True, gated=True)
    exported.check()
    session = Session(exported, threads=1)
    input_ids = random_ids(model.spec, 2, TOKENS)
    for rounds in (1, 2, 3):
        run = stepped(session, input_ids, rounds) if cache else session.logits(input_ids, rounds)
        np.testing.assert_allclose(run, torch_logits(model, input_ids, rounds), rtol=0, atol=CLOSE)


def test_a_wrong_depth_is_seen() -> None:
    model = lively_model(small_spec("(A^3)B", width=32))
    session = Session(to_onnx(model, cache=True, gated=True), threads=1)
    input_ids = random_ids(model.spec, 2, TOKENS)
    made = [stepped(session, input_ids, rounds) for rounds in (1, 2, 3)]
    assert np.abs(made[0] - made[2]).max() > 0.01
    assert np.abs(made[1] - made[2]).max() > 0.01


@pytest.mark.parametrize("cache", [False, True])
def test_rounds_above_those_in_the_file(cache: bool) -> None:
    model = lively_model(small_spec("(A^3)B", width=32))
    session = Session(to_onnx(model, 2, cache=cache, gated=True), threads=1)
    with pytest.raises(LoweringError, match="fixed-rounds") as caught:
        session.logits([[1, 2]], rounds=3)
    assert "runs at most 2 rounds, not 3" in str(caught.value)
    assert caught.value.hint
    assert session.logits([[1, 2]]).shape == session.logits([[1, 2]], rounds=1).shape


def test_rounds_of_several_repeats_are_told_by_name() -> None:
    exported = to_onnx(lively_model(small_spec("A^2 B^3", layers=2, width=32)), gated=True)
    session = Session(exported, threads=1)
    with pytest.raises(LoweringError, match="at most A=2, B=3 rounds, not A=2, B=4"):
        session.check_rounds({"B": 4})


def test_the_file_says_how_deep_it_is_to_go() -> None:
    model = lively_model(small_spec("A^2 B^3", layers=2, width=32))
    exported = to_onnx(model, cache=True, gated=True)
    names = [str(value.name) for value in exported.ir.graph.inputs]
    assert [name for name in names if "depth" in name] == ["depth_A", "depth_B"]
    gates = [node for node in exported.ir.graph if node.op_type == "If"]
    assert len(gates) == 1 + 2
    names_of_one = to_onnx(lively_model(small_spec("(A^3)B", width=32)), cache=True, gated=True)
    assert [value.name for value in names_of_one.ir.graph.inputs][-1] == "depth"


def test_every_weight_is_stored_once_at_any_number_of_rounds() -> None:
    model = lively_model(small_spec("(A^3)B", width=32))
    sizes = [to_onnx(model, most, cache=True, gated=True).weight_bytes for most in (1, 12)]
    assert abs(sizes[1] - sizes[0]) < 200  # the numbers of the rounds


def test_a_gated_cache_is_appended_to_in_place() -> None:
    model = lively_model(small_spec("(A^3)B", width=32))
    assert Session(to_onnx(model, cache=True, gated=True), threads=1).in_place
