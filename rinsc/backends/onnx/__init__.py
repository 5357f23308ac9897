"""The ONNX backend: a block graph as a model of standard operators, and the session that runs it.

Names load on first use: exporting needs onnx-ir alone, running needs onnxruntime alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rinsc.extras import require

if TYPE_CHECKING:
    from rinsc.backends.onnx.form import Exit as Exit
    from rinsc.backends.onnx.form import OnnxForm as OnnxForm
    from rinsc.backends.onnx.form import RoundsForm as RoundsForm
    from rinsc.backends.onnx.precision import Precision as Precision
    from rinsc.backends.onnx.run.benchmark import counted_flops as counted_flops
    from rinsc.backends.onnx.run.session import Session as Session
    from rinsc.backends.onnx.run.towers import TowersSession as TowersSession
    from rinsc.backends.onnx.write.export import graph_to_onnx as graph_to_onnx
    from rinsc.backends.onnx.write.export import to_onnx as to_onnx
    from rinsc.backends.onnx.write.file import OnnxModel as OnnxModel

_HOMES = {
    "Exit": "form",
    "OnnxForm": "form",
    "OnnxModel": "write.file",
    "Precision": "precision",
    "RoundsForm": "form",
    "Session": "run.session",
    "TowersSession": "run.towers",
    "counted_flops": "run.benchmark",
    "graph_to_onnx": "write.export",
    "to_onnx": "write.export",
}

__all__ = list(_HOMES)

_NEEDS = {
    "write.export": ("numpy", "onnx_ir"),
    "write.file": ("onnx_ir",),
    "run.benchmark": ("numpy",),
    "run.session": ("numpy",),
    "run.towers": ("numpy",),
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    require(*_NEEDS.get(home, ()))
    return getattr(import_module(f"{__name__}.{home}"), name)
