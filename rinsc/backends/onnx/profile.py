"""FLOPs counted from what ONNX Runtime really executed: an oracle for the cost model."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy.typing as npt

from rinsc.backends.onnx.session import Session
from rinsc.files import parse_json
from rinsc.folders import temporary_folder
from rinsc.graph import Rounds

if TYPE_CHECKING:
    from rinsc.backends.onnx.file import OnnxModel

Shapes: TypeAlias = list[list[int]]


def counted_flops(
    model: OnnxModel | str | os.PathLike[str], input_ids: npt.ArrayLike, rounds: Rounds = None
) -> int:
    """FLOPs of the matrix products of one forward pass, 2 a multiply-add, loops included.

    Every pair of positions counts, masked or not. Raises what `Session` raises.
    """
    with temporary_folder() as folder:
        session = Session(model, threads=1, profile_folder=folder)
        session.logits(input_ids, rounds)
        return sum(executed_flops(session.finish_profile()))


def executed_flops(profile: Path) -> Iterator[int]:
    """FLOPs of each kernel in a profile that multiplies matrices, in order of execution."""
    for event in parse_json(profile.read_bytes()):
        arguments = event.get("args", {})
        count = _FLOPS.get(arguments.get("op_name", ""))
        if count is not None and event["name"].endswith("_kernel_time"):
            yield count(_shapes(arguments, "input"), _shapes(arguments, "output"))


def _shapes(arguments: Mapping[str, Any], side: str) -> Shapes:
    return [next(iter(shape.values())) for shape in arguments[f"{side}_type_shape"]]


def _matmul_flops(inputs: Shapes, outputs: Shapes) -> int:
    """From the output: a weight that was packed at load has no shape among the inputs."""
    return 2 * math.prod(outputs[0]) * inputs[0][-1]


def _attention_flops(inputs: Shapes, outputs: Shapes) -> int:
    """Scores and their mix, each batch · heads · seq² · head_dim multiply-adds."""
    seq = inputs[1][-2]
    return 2 * math.prod(inputs[0]) * seq + 2 * math.prod(outputs[0]) * seq


_FLOPS: Mapping[str, Callable[[Shapes, Shapes], int]] = {
    "MatMul": _matmul_flops,
    "Gemm": _matmul_flops,
    "FusedMatMul": _matmul_flops,
    "FusedGemm": _matmul_flops,
    "Attention": _attention_flops,
}
