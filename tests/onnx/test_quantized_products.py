"""Products with quantized matrices, as ONNX Runtime's operators compute them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from rinsc.backends.onnx.write.matrices import (
    BlockwiseMatrix,
    blockwise,
    dequantize,
    per_channel_int8,
)
from rinsc.backends.onnx.write.rounding import Bits, Float32

Array: TypeAlias = npt.NDArray[Any]
DOMAIN = "com.microsoft"


def random_array(*shape: int, seed: int = 0) -> Float32:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def one_node(node: onnx.NodeProto, arrays: dict[str, Array], features: int) -> onnx.ModelProto:
    """A model of one product: x (rows, in_features) to y."""
    given_value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, features])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, None])
    constants = [numpy_helper.from_array(each, name) for name, each in arrays.items()]
    graph = helper.make_graph([node], "product", [given_value], [result], constants)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def run(model: onnx.ModelProto, x: Float32) -> Float32:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: Float32 = session.run(None, {"x": x})[0]
    return found


def blockwise_product(
    x: Float32, matrix: BlockwiseMatrix, level: int, bias: Float32 | None = None
) -> Float32:
    """x @ matrix.T (+ bias) by `MatMulNBits`."""
    arrays: dict[str, Array] = {"packed": matrix.packed, "scales": matrix.scales}
    inputs = ["x", "packed", "scales", ""]
    if matrix.zero_points is not None:
        arrays["zero_points"] = matrix.zero_points
        inputs[3] = "zero_points"
    if bias is not None:
        arrays["bias"] = bias
        inputs += ["", "bias"]
    node = helper.make_node(
        "MatMulNBits",
        inputs,
        ["y"],
        domain=DOMAIN,
        K=matrix.in_features,
        N=len(matrix.packed),
        bits=matrix.bits,
        block_size=matrix.block_size,
        accuracy_level=level,
    )
    return run(one_node(node, arrays, matrix.in_features), x)


def relative_rmse(found: Float32, expected: Float32) -> float:
    return float(np.sqrt(np.mean((found - expected) ** 2) / np.mean(expected**2)))


@given(
    st.integers(1, 90),
    st.integers(1, 300),
    st.integers(1, 5),
    st.sampled_from((4, 8)),
    st.sampled_from((32, 128)),
    st.sampled_from((0, 4)),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_a_blockwise_product_is_that_of_the_dequantized_matrix(
    out_features: int,
    in_features: int,
    rows: int,
    bits: Bits,
    block_size: int,
    level: int,
    symmetric: bool,
    biased: bool,
    seed: int,
) -> None:
    weight = random_array(out_features, in_features, seed=seed) + 0.3  # zero points off the middle
    matrix = blockwise(weight, bits, block_size, symmetric=symmetric)
    x = random_array(rows, in_features, seed=seed + 1)
    bias = random_array(out_features, seed=seed + 2) if biased else None
    expected = x @ dequantize(matrix).T
    # Level 4 brings the activations to 8 bits as well, block by block.
    scale = np.linalg.norm(x, axis=1)[:, None] * np.linalg.norm(dequantize(matrix), axis=1)
    tolerance = (0.02 if level == 4 else 1e-5) * scale + 1e-6
    if bias is not None:
        expected = expected + bias
    assert (np.abs(blockwise_product(x, matrix, level, bias) - expected) <= tolerance).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_wrong_layout_is_found(bits: Bits) -> None:
    matrix, x = blockwise(random_array(64, 256), bits), random_array(4, 256, seed=1)
    expected = x @ dequantize(matrix).T
    swapped = (matrix.packed << 4 | matrix.packed >> 4) if bits == 4 else matrix.packed[:, ::-1]
    wrong = dataclasses.replace(matrix, packed=np.ascontiguousarray(swapped))
    assert relative_rmse(blockwise_product(x, matrix, 4), expected) < 0.01
    assert relative_rmse(blockwise_product(x, wrong, 4), expected) > 0.1


@pytest.mark.parametrize(("bits", "block_size"), [(4, 32), (4, 128), (8, 32), (8, 128)])
def test_a_table_is_read_from_the_matrix_of_the_head(bits: Bits, block_size: int) -> None:
    """`GatherBlockQuantized` takes the packed array as it is, with scales of one more axis."""
    table = blockwise(random_array(50, 256), bits, block_size)
    node = helper.make_node(
        "GatherBlockQuantized",
        ["packed", "ids", "scales"],
        ["rows"],
        domain=DOMAIN,
        bits=bits,
        block_size=block_size,
        gather_axis=0,
        quantize_axis=2,
    )
    arrays: dict[str, Array] = {"packed": table.packed, "scales": table.scales[..., None]}
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, [None, None])
    rows = helper.make_tensor_value_info("rows", TensorProto.FLOAT, [None] * 4)
    constants = [numpy_helper.from_array(each, name) for name, each in arrays.items()]
    graph = helper.make_graph([node], "gather", [ids], [rows], constants)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    chosen = np.array([[0, 49, 7], [7, 1, 2]])
    found = session.run(None, {"ids": chosen})[0].reshape(2, 3, 256)
    np.testing.assert_array_equal(found, dequantize(table)[chosen])


def dynamic_product(x: Float32, weight: Float32, bias: Float32 | None = None) -> Float32:
    """x @ weight.T (+ bias) by `DynamicQuantizeMatMul`."""
    matrix = per_channel_int8(weight)
    arrays: dict[str, Array] = {"codes": matrix.codes, "scales": matrix.scales}
    inputs = ["x", "codes", "scales"]
    if bias is not None:
        arrays["bias"] = bias
        inputs += ["", "bias"]
    node = helper.make_node("DynamicQuantizeMatMul", inputs, ["y"], domain=DOMAIN)
    return run(one_node(node, arrays, weight.shape[1]), x)


@pytest.mark.parametrize(("out_features", "in_features"), [(96, 256), (37, 33), (5, 1408)])
@pytest.mark.parametrize("biased", [False, True])
def test_a_dynamic_product_is_near_that_of_floats(
    out_features: int, in_features: int, biased: bool
) -> None:
    weight, x = random_array(out_features, in_features), random_array(6, in_features, seed=1)
    bias = random_array(out_features, seed=2) if biased else None
    expected = x @ weight.T + (0 if bias is None else bias)
    assert relative_rmse(dynamic_product(x, weight, bias), expected) < 0.03


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("per_channel", [False, True])
def test_a_dynamic_product_is_as_good_as_onnx_runtimes(
    tmp_path: Path, seed: int, per_channel: bool
) -> None:
    weight = random_array(96, 256, seed=seed)
    weight *= np.linspace(0.2, 2, 96, dtype=np.float32)[:, None]
    x = random_array(32, 256, seed=seed + 10)
    plain = one_node(helper.make_node("MatMul", ["x", "w"], ["y"]), {"w": weight.T}, 256)
    quantize_dynamic(
        plain, tmp_path / "theirs.onnx", per_channel=per_channel, weight_type=QuantType.QInt8
    )
    theirs = run(onnx.load(tmp_path / "theirs.onnx"), x)
    expected = x @ weight.T
    ours = relative_rmse(dynamic_product(x, weight), expected)
    assert ours <= 1.1 * relative_rmse(theirs, expected)
