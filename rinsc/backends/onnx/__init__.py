"""The ONNX backend: a block graph as a model of standard operators, and the session that runs it.

Names load on first use: exporting needs onnx-ir alone, running needs onnxruntime alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rinsc.extras import require

if TYPE_CHECKING:
    from rinsc.backends.onnx.export import RoundsForm, graph_to_onnx, to_onnx
    from rinsc.backends.onnx.file import OnnxModel
    from rinsc.backends.onnx.profile import counted_flops
    from rinsc.backends.onnx.session import Session

__all__ = ["OnnxModel", "RoundsForm", "Session", "counted_flops", "graph_to_onnx", "to_onnx"]

_HOMES = {
    "OnnxModel": "file",
    "RoundsForm": "export",
    "Session": "session",
    "counted_flops": "profile",
    "graph_to_onnx": "export",
    "to_onnx": "export",
}

_NEEDS = {
    "export": ("numpy", "onnx_ir"),
    "file": ("onnx_ir",),
    "profile": ("numpy",),
    "session": ("numpy",),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    require(*_NEEDS[home])
    return getattr(import_module(f"{__name__}.{home}"), name)
