"""The table of number formats, against the libraries that hold the numbers."""

from __future__ import annotations

from typing import get_args

import onnx
import pytest
import torch

from rinsc.formats import FORMATS, FloatType, TrainingPrecision, names

PACKED = {"int4"}  # two to a byte of torch


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_has_the_size_that_torch_and_onnx_give_it(name: str) -> None:
    row = FORMATS[name]
    dtype = getattr(torch, row.torch)
    held = torch.empty(1, dtype=dtype).element_size() * 8
    assert held == row.bits * (2 if name in PACKED else 1)
    code = onnx.TensorProto.DataType.Value(row.onnx)
    assert code == row.onnx_number
    stored = onnx.helper.make_tensor("x", code, [2], [1, 1])
    array = onnx.numpy_helper.to_array(stored)
    assert array.dtype.itemsize * 8 == row.bits * (2 if name in PACKED else 1)


def test_types_name_the_rows_of_the_table() -> None:
    assert get_args(FloatType) == names(arithmetic="floats")
    assert get_args(TrainingPrecision) == names(trains=True)
