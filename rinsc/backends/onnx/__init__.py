"""The ONNX backend: a block graph as a model of standard operators, and the session that runs it.

Names load on first use: exporting needs onnx-ir alone, running needs onnxruntime alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rinsc.extras import require

if TYPE_CHECKING:
    from rinsc.backends.onnx.run.benchmark import counted_flops
    from rinsc.backends.onnx.run.session import Session
    from rinsc.backends.onnx.write.export import RoundsForm, graph_to_onnx, to_onnx
    from rinsc.backends.onnx.write.file import OnnxModel

__all__ = ["OnnxModel", "RoundsForm", "Session", "counted_flops", "graph_to_onnx", "to_onnx"]

_HOMES = {
    "OnnxModel": "write.file",
    "RoundsForm": "write.export",
    "Session": "run.session",
    "counted_flops": "run.benchmark",
    "graph_to_onnx": "write.export",
    "to_onnx": "write.export",
}

_NEEDS = {
    "write.export": ("numpy", "onnx_ir"),
    "write.file": ("onnx_ir",),
    "run.benchmark": ("numpy",),
    "run.session": ("numpy",),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    require(*_NEEDS[home])
    return getattr(import_module(f"{__name__}.{home}"), name)
