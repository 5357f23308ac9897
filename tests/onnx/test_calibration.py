"""Rounding by what matrices are multiplied with: its sums, its codes, and what it gains."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.capi import _pybind_state as ort_state
from torch import nn

from rinsc.backends.onnx import RoundsForm, Session, to_onnx
from rinsc.backends.onnx.write.matrices import BlockwiseMatrix, blockwise, dequantize
from rinsc.backends.onnx.write.rounding import Compensation, Float32, fit_grids
from rinsc.backends.torch import CompiledModule, calibration, to_torch
from rinsc.backends.torch.calibration import ENOUGH_TOKENS, Calibration, own_text
from rinsc.errors import LoweringError, UsageError
from rinsc.spec import ModelSpec, model_spec
from tests.onnx.models import lively_model, random_ids, small_spec, torch_logits


def correlated(rows: int, columns: int, seed: int) -> Float32:
    """Inputs of which a few directions hold most, as those of trained models."""
    random = np.random.default_rng(seed)
    mixing = np.random.default_rng(7).standard_normal((columns // 4, columns))
    few = random.standard_normal((rows, columns // 4)) @ mixing
    inputs: Float32 = (few + 0.3 * random.standard_normal((rows, columns))).astype(np.float32)
    return inputs


def textbook_values(
    matrix: Float32, grids: Any, moments: Float32, block_size: int, damping: float
) -> npt.NDArray[np.float64]:
    """GPTQ with the inverse of the moments, row by row and feature by feature."""
    size = len(moments)
    damped = moments.astype(np.float64)
    order = np.argsort(-np.diagonal(damped), kind="stable")
    damped[np.diag_indices(size)] += damping * np.diagonal(damped).mean()
    damped = damped[np.ix_(order, order)]
    factor = np.linalg.cholesky(np.linalg.inv(damped)).T
    blocks = size // block_size
    scales, zeros = (
        np.reshape(each, (len(matrix), blocks)) for each in (grids.scales, grids.zeros)
    )
    values = np.zeros(matrix.shape)
    for number, row in enumerate(matrix.astype(np.float64)):
        left = row[order].copy()
        for place, feature in enumerate(order):
            scale, zero = (float(e[number, feature // block_size]) for e in (scales, zeros))
            code = np.clip(np.floor(left[place] / scale + zero + 0.5), 0, 15)
            values[number, feature] = scale * (code - zero)
            error = (left[place] - values[number, feature]) / factor[place, place]
            left[place:] -= error * factor[place, place:]
    return values


@pytest.mark.parametrize("symmetric", [True, False])
def test_codes_are_those_of_the_textbook(symmetric: bool) -> None:
    inputs = correlated(400, 96, 1)
    moments = inputs.T @ inputs
    matrix = np.random.default_rng(0).standard_normal((40, 96)).astype(np.float32)
    grids = fit_grids(matrix.reshape(-1, 32), 4, symmetric=symmetric)
    codes = Compensation(moments, 96).codes(matrix, grids, 4).reshape(-1, 32)
    ours = ((codes - grids.zeros[:, None]) * grids.scales[:, None]).reshape(matrix.shape)
    theirs = textbook_values(matrix, grids, moments, 32, 0.01)
    # In float32 an element may fall to the other side of a half, and the row goes on from there.
    same_rows = (np.abs(ours - theirs) < 1e-5).all(axis=1)
    assert same_rows.mean() > 0.9


def output_error(found: npt.NDArray[Any], matrix: Float32, inputs: Float32) -> float:
    wrong, right = inputs @ (found - matrix).T, inputs @ matrix.T
    return float(np.sqrt(np.square(wrong).mean() / np.square(right).mean()))


@pytest.mark.parametrize(("block_size", "columns"), [(32, 256), (128, 300), (32, 70)])
@pytest.mark.parametrize("symmetric", [True, False])
def test_products_with_inputs_that_were_not_seen_are_nearer(
    block_size: int, columns: int, symmetric: bool
) -> None:
    seen, unseen = correlated(2000, columns, 1), correlated(500, columns, 2)
    matrix = np.random.default_rng(0).standard_normal((48, columns)).astype(np.float32)

    def error(moments: Float32 | None) -> float:
        found = blockwise(matrix, 4, block_size, symmetric=symmetric, moments=moments)
        return output_error(dequantize(found), matrix, unseen)

    plain = error(None)
    assert error(seen.T @ seen) < 0.75 * plain
    assert plain <= 1.02 * output_error(runtimes_own(matrix, block_size, symmetric), matrix, unseen)
    shuffled = seen[:, np.random.default_rng(3).permutation(columns)]
    assert error(shuffled.T @ shuffled) > 0.95 * plain  # moments of something else are no help


def runtimes_own(matrix: Float32, block_size: int, symmetric: bool) -> Float32:
    """As ONNX Runtime's quantizer rounds it."""
    rows, columns = matrix.shape
    blocks = -(-columns // block_size)
    packed = np.zeros((rows, blocks, block_size // 2), np.uint8)
    scales, zeros = (
        np.zeros((rows, blocks), np.float32),
        np.zeros((rows, -(-blocks // 2)), np.uint8),
    )
    padded = np.ascontiguousarray(np.pad(matrix.T, ((0, -columns % block_size), (0, 0))))
    ort_state.quantize_matmul_4bits(
        packed, padded, scales, zeros, block_size, rows, columns, symmetric
    )
    points = None if symmetric else zeros
    return dequantize(BlockwiseMatrix(packed, scales, 4, block_size, columns, points))


@given(
    st.integers(1, 9),
    st.integers(1, 100),
    st.integers(1, 40),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_any_moments_give_codes(
    rows: int, columns: int, tokens: int, symmetric: bool, seed: int
) -> None:
    """Fewer tokens than features too, and features that are never active."""
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((rows, columns)).astype(np.float32)
    inputs = random.standard_normal((tokens, columns)).astype(np.float32)
    inputs[:, random.random(columns) < 0.3] = 0
    found = blockwise(matrix, 4, symmetric=symmetric, moments=inputs.T @ inputs)
    back = dequantize(found)
    assert np.isfinite(back).all()
    step = np.abs(found.scales).max()
    assert np.abs(back).max() <= 16 * step


def test_moments_that_are_no_numbers_are_named() -> None:
    moments = np.eye(32, dtype=np.float32)
    moments[3, 4] = np.nan
    with pytest.raises(LoweringError, match=r"'A\.0\.up'") as caught:
        blockwise(np.ones((2, 32), np.float32), 4, moments=moments, name="A.0.up")
    assert caught.value.code == "not-finite"


def hooked_moments(
    module: CompiledModule, ids: npt.NDArray[np.int64], rounds: int
) -> dict[str, npt.NDArray[np.float64]]:
    """The inputs of each linear module, as PyTorch's own hooks see them."""
    rows: dict[str, list[torch.Tensor]] = {}
    handles = [
        part.register_forward_pre_hook(
            lambda _, args, name=name: rows.setdefault(name, []).append(args[0].flatten(0, -2))
        )
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear)
    ]
    handles.append(
        module.get_submodule("final_norm").register_forward_hook(
            lambda _, args, out: rows.setdefault("embedding", []).append(out.flatten(0, -2))
        )
    )
    torch_logits(module, ids, rounds)
    for handle in handles:
        handle.remove()
    joined = {name: torch.cat(some).double().numpy() for name, some in rows.items()}
    return {f"{name}.weight": each.T @ each for name, each in joined.items()}


@pytest.mark.parametrize("at_once", [1 << 30, 1])
def test_moments_are_summed_over_tokens_and_visits(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "MOMENT_BYTES", at_once)
    spec = small_spec("(A^3)B", tied_embedding=True)
    module, ids = lively_model(spec), random_ids(spec, 70, spec.context)
    expected = hooked_moments(module, ids, 2)
    found = Calibration(module, ids, 2)
    assert len(expected) == 4 * 7 + 1
    for name, moments in expected.items():
        ours = found(name)
        assert ours is not None
        assert np.abs(ours - moments).max() < 1e-3 * np.abs(moments).max()
    assert found("final_norm.weight") is None
    assert found("no.such.weight") is None


def test_training_mode_is_left_as_it_was_and_draws_nothing() -> None:
    spec = small_spec("A^4{skip=0.9}B", tied_embedding=True)
    module, ids = lively_model(spec).train(), random_ids(spec, 4, 8)
    found = Calibration(module, ids)("A.0.query.weight")
    assert module.training
    np.testing.assert_array_equal(found, Calibration(module.eval(), ids)("A.0.query.weight"))
    assert not module.training


WRONG_INPUTS: dict[str, Any] = {
    "no windows": np.zeros((0, 8), np.int64),
    "one row": np.zeros(8, np.int64),
    "floats": np.zeros((2, 8)),
    "too long": np.zeros((2, 20), np.int64),
    "beyond the vocabulary": np.full((2, 8), 53),
    "negative": np.full((2, 8), -1),
    "windows of several lengths": [[1, 2], [1]],
    "a text": "corpus.txt",
}


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_inputs_that_the_module_does_not_take(case: str) -> None:
    with pytest.raises(UsageError) as caught:
        to_onnx(lively_model(small_spec()), precision="int4", calibrate=WRONG_INPUTS[case])
    assert caught.value.code == "calibration"
    assert caught.value.hint


def markov_ids(spec: ModelSpec, windows: int, seed: int) -> npt.NDArray[np.int64]:
    """Windows of ids in which each is followed by one of three, as in no two seeds."""
    random = np.random.default_rng(seed)
    follows = np.random.default_rng(5).integers(0, spec.vocab_size, (spec.vocab_size, 3))
    ids = random.integers(0, spec.vocab_size, (windows, spec.context))
    for column in range(1, spec.context):
        ids[:, column] = follows[ids[:, column - 1], random.integers(0, 3, windows)]
    return ids


@pytest.fixture(scope="module")
def trained() -> CompiledModule:
    """A model that has learned what follows what."""
    spec = model_spec(
        "(A^3)B",
        layers=2,
        width=64,
        heads=4,
        kv_heads=2,
        mlp_width=160,
        vocab_size=96,
        context=32,
        tied_embedding=True,
    )
    torch.manual_seed(0)
    module = to_torch(spec)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for step in range(120):
        ids = torch.from_numpy(markov_ids(spec, 16, 100 + step))
        logits = module(ids[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    assert loss.item() < 2
    return module.eval()


def divergence(module: CompiledModule, ids: npt.NDArray[np.int64], **options: Any) -> float:
    """KL(PyTorch || ONNX) per token."""
    found = Session(to_onnx(module, **options), threads=1).logits(ids)
    exact, other = (
        torch.log_softmax(torch.from_numpy(each), -1) for each in (torch_logits(module, ids), found)
    )
    return float((exact.exp() * (exact - other)).sum(-1).mean())


def test_a_model_samples_its_own_text(trained: CompiledModule) -> None:
    """Most pairs of tokens are pairs of the text that it was trained on; of random ones few are."""
    ids = own_text(trained)
    spec = trained.spec
    assert ids.shape == (ENOUGH_TOKENS // spec.context, spec.context)
    pairs = {tuple(pair) for pair in sliding_pairs(markov_ids(spec, 400, 5))}
    known = np.mean([tuple(pair) in pairs for pair in sliding_pairs(ids)])
    chance = random_ids(spec, *ids.shape)
    random = np.mean([tuple(pair) in pairs for pair in sliding_pairs(chance)])
    assert known > 0.6 > 10 * random
    assert np.array_equal(own_text(trained), ids)
    assert len(np.unique(ids[:, 0])) > spec.vocab_size / 2  # the texts begin in many ways


def sliding_pairs(ids: npt.NDArray[np.int64]) -> list[list[int]]:
    pairs: list[list[int]] = np.stack([ids[:, :-1], ids[:, 1:]], -1).reshape(-1, 2).tolist()
    return pairs


def test_random_tokens_where_nothing_continues_a_sequence() -> None:
    spec = small_spec()
    module = lively_model(spec)
    module.extra = nn.Parameter(torch.zeros(1))  # not the module that was compiled any more
    ids = own_text(module, 100)
    assert ids.shape == (-(-100 // spec.context), spec.context)
    assert np.array_equal(own_text(module, 100), ids)


def test_each_choice_brings_a_trained_model_nearer(trained: CompiledModule) -> None:
    seen, unseen = markov_ids(trained.spec, 64, 1), markov_ids(trained.spec, 64, 2)
    named = {
        "symmetric": divergence(trained, unseen, precision="int4 symmetric", calibrate=False),
        "each by itself": divergence(trained, unseen, precision="int4", calibrate=False),
        "its own text": divergence(trained, unseen, precision="int4"),
        "calibrated": divergence(trained, unseen, precision="int4", calibrate=seen),
        "int8": divergence(trained, unseen, precision="int8"),
        "int8 embedding": divergence(
            trained, unseen, precision="int4 int8:embedding", calibrate=seen
        ),
    }
    assert named["int8"] < named["int8 embedding"] < named["calibrated"], named
    assert named["each by itself"] < named["symmetric"], named
    assert named["its own text"] < named["each by itself"], named
    assert named["calibrated"] < 0.85 * named["each by itself"], named


def unpacked(model: ir.Model, name: str, bits: int, columns: int, size: int) -> Float32:
    """The matrix that the initializers hold, by ONNX's own DequantizeLinear where that can be."""
    arrays = {
        part: value.const_value.numpy()
        for part in ("codes", "scales", "zero_points")
        if (value := model.graph.initializers.get(f"{name}.{part}")) is not None
        and value.const_value is not None
    }
    codes = arrays["codes"].reshape(len(arrays["codes"]), -1)
    zeros = arrays.get("zero_points")
    scales = arrays["scales"]
    found = np.zeros((len(codes), columns), np.float32)
    for column in range(columns):
        block = column // size
        code, zero = codes[:, column * bits // 8], np.full(len(codes), 1 << (bits - 1))
        if bits == 4:
            code = (code >> 4 * (column % 2)) & 15
        if zeros is not None:
            zero = (zeros[:, block // 2] >> 4 * (block % 2)) & 15
        found[:, column] = (code.astype(np.float32) - zero) * scales[:, block]
    return found


FORMS: dict[str, tuple[RoundsForm, dict[str, Any]]] = {
    "unrolled": (None, {}),
    "unrolled, cached": (None, {"cache": True}),
    "loop": ("dynamic", {}),
    "scan": ("dynamic", {"cache": True}),
    "gated": (3, {"cache": True, "gated": True}),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", ["int4", "int4/128 symmetric", "int4 int8:embedding"])
def test_every_form_computes_with_the_weights_that_it_stores(
    form: str, tied: bool, precision: str
) -> None:
    rounds, options = FORMS[form]
    spec = small_spec(tied_embedding=tied, width=48, mlp_width=70)
    module, ids = lively_model(spec), random_ids(spec, 2, 9)
    exported = to_onnx(
        module, rounds, precision=precision, calibrate=random_ids(spec, 30, 16, seed=3), **options
    )
    state = module.state_dict()
    size = 128 if "/128" in precision else 32
    stored = [str(name) for name in exported.ir.graph.initializers]
    for name in (each.removesuffix(".codes") for each in stored if each.endswith(".codes")):
        stem, _, parts = name.removesuffix(".weight").rpartition(".")
        owners = [".".join(filter(None, (stem, part))) for part in parts.split("_")]
        bits = 8 if name == "embedding.weight" and "int8" in precision else 4
        columns = state[f"{owners[0]}.weight"].shape[1]
        whole = torch.from_numpy(unpacked(exported.ir, name, bits, columns, size))
        heights = [len(state[f"{owner}.weight"]) for owner in owners]
        for owner, weight in zip(owners, torch.split(whole, heights), strict=True):
            state[f"{owner}.weight"] = weight
    assert ("embedding.weight" in stored) is False
    assert ("head.weight.codes" in stored) is not tied
    twin = to_torch(spec).eval()
    twin.load_state_dict(state)
    found, expected = Session(exported, threads=1).logits(ids), torch_logits(twin, ids)
    exact = torch_logits(module, ids)
    # Activations have 8 bits in the runtime's products: far less than what the weights lost.
    assert np.abs(found - expected).mean() < 0.25 * np.abs(exact - expected).mean()


def test_codes_are_the_same_every_time(trained: CompiledModule) -> None:
    ids = markov_ids(trained.spec, 8, 1)
    first, second = (
        to_onnx(trained, cache=True, precision="int4", calibrate=ids).to_bytes() for _ in range(2)
    )
    assert first == second


def test_all_forms_hold_the_same_weights() -> None:
    """At whatever rounds they are written out: the sample runs at those of the signature."""
    module = lively_model(small_spec(tied_embedding=True))
    forms: list[tuple[RoundsForm, dict[str, Any]]] = [
        (None, {"cache": True}),
        (1, {"cache": True}),
        ("dynamic", {"cache": True}),
        (5, {"cache": True, "gated": True}),
    ]
    held = []
    for rounds, options in forms:
        initializers = to_onnx(module, rounds, precision="int4", **options).ir.graph.initializers
        tensors = {str(name): value.const_value for name, value in initializers.items()}
        held.append(
            {
                name: tensor.tobytes()
                for name, tensor in tensors.items()
                if tensor is not None and ".weight." in name
            }
        )
    assert held[0]
    assert all(each == held[0] for each in held)


@pytest.mark.parametrize(("width", "block_size"), [(64, 32), (72, 32), (96, 32), (200, 128)])
@pytest.mark.parametrize(
    ("embedding", "tied"), [(e, t) for e in ("int4", "int8", "fp16", "fp32") for t in (True, False)]
)
def test_a_row_of_the_table_is_what_is_stored(
    width: int, block_size: int, embedding: str, tied: bool
) -> None:
    """Also where a block is not full, and where an odd number of zero points leaves half a byte."""
    spec = small_spec("A", layers=1, width=width, heads=2, tied_embedding=tied)
    module = lively_model(spec)
    model = to_onnx(module, precision=f"int4/{block_size} {embedding}:embedding").ir
    stored = module.state_dict()["embedding.weight"].numpy()
    expected = stored.astype(np.float16).astype(np.float32) if embedding == "fp16" else stored
    if embedding.startswith("int"):
        bits = int(embedding.removeprefix("int"))
        expected = unpacked(model, "embedding.weight", bits, width, block_size)
        lost = np.square(expected - stored).mean() / np.square(stored).mean()
        assert 0 < np.sqrt(lost) < (0.2 if bits == 4 else 0.01)
    rows = table_output(model, width)
    ids = random_ids(spec, 2, 9)
    model.graph.outputs[:] = [rows]
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString())
    np.testing.assert_array_equal(session.run(None, {"input_ids": ids})[0], expected[ids])


def table_output(model: ir.Model, width: int) -> ir.Value:
    """The state (batch, seq, width) that the embedding's nodes make."""
    (*_, last) = (
        value
        for node in model.graph
        for value in node.outputs
        if str(value.name).partition("/")[0] == "embedding"
        and value.shape is not None
        and list(value.shape)[1:] == ["seq", width]
    )
    return last
