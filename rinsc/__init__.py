"""rinsc: a compiler for recursive-depth neural networks.

One line, ``"(A^3)B"``, becomes a block graph, exact costs, a PyTorch module and an ONNX model.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rinsc.__about__ import __version__
from rinsc.errors import RinscError
from rinsc.extras import TO_TRAIN, require

if TYPE_CHECKING:
    from rinsc.backends.onnx import OnnxForm, Session, TowersSession, to_onnx
    from rinsc.backends.torch import load_weights, save_weights, to_torch
    from rinsc.cost import FlopConvention, cost_report, match_compute
    from rinsc.evaluation.report import evaluate
    from rinsc.fingerprints import fingerprint
    from rinsc.graph import build_graph, unroll
    from rinsc.graph.law import draw_rounds
    from rinsc.layers import register_kind
    from rinsc.sampling import Sampling
    from rinsc.spec import ModelSpec, TowersSpec, model_spec, towers_spec
    from rinsc.syntax import canonical, parse
    from rinsc.training.start import train
    from rinsc.verbs.bench import BenchReport, bench
    from rinsc.verbs.export import export
    from rinsc.verbs.forms import Exported, HfForm, TorchForm
    from rinsc.verbs.generate import Generation, generate
    from rinsc.verification import verify

# Loaded when first used: `import rinsc` stays light, and torch or onnx may be absent.
_HOMES = {
    "BenchReport": "rinsc.verbs.bench",
    "Exported": "rinsc.verbs.forms",
    "FlopConvention": "rinsc.cost",
    "Generation": "rinsc.verbs.generate",
    "HfForm": "rinsc.verbs.forms",
    "ModelSpec": "rinsc.spec",
    "OnnxForm": "rinsc.backends.onnx",
    "Sampling": "rinsc.sampling",
    "Session": "rinsc.backends.onnx",
    "TorchForm": "rinsc.verbs.forms",
    "TowersSession": "rinsc.backends.onnx",
    "TowersSpec": "rinsc.spec",
    "bench": "rinsc.verbs.bench",
    "build_graph": "rinsc.graph",
    "canonical": "rinsc.syntax",
    "cost_report": "rinsc.cost",
    "draw_rounds": "rinsc.graph.law",
    "export": "rinsc.verbs.export",
    "evaluate": "rinsc.evaluation.report",
    "fingerprint": "rinsc.fingerprints",
    "generate": "rinsc.verbs.generate",
    "load_weights": "rinsc.backends.torch",
    "match_compute": "rinsc.cost",
    "model_spec": "rinsc.spec",
    "parse": "rinsc.syntax",
    "register_kind": "rinsc.layers",
    "save_weights": "rinsc.backends.torch",
    "to_onnx": "rinsc.backends.onnx",
    "to_torch": "rinsc.backends.torch",
    "towers_spec": "rinsc.spec",
    "train": "rinsc.training.start",
    "unroll": "rinsc.graph",
    "verify": "rinsc.verification",
}

# What must be installed besides the base; `rinsc.backends.onnx` says so for its own names.
_NEEDS = {
    "rinsc.backends.torch": ("torch", "safetensors"),
    "rinsc.evaluation.report": (*TO_TRAIN, "matplotlib"),
    "rinsc.training.start": TO_TRAIN,
    "rinsc.verification": ("torch", "safetensors"),
}

__all__ = [
    "BenchReport",
    "Exported",
    "FlopConvention",
    "Generation",
    "HfForm",
    "ModelSpec",
    "OnnxForm",
    "RinscError",
    "Sampling",
    "Session",
    "TorchForm",
    "TowersSession",
    "TowersSpec",
    "__version__",
    "bench",
    "build_graph",
    "canonical",
    "cost_report",
    "draw_rounds",
    "evaluate",
    "export",
    "fingerprint",
    "generate",
    "load_weights",
    "match_compute",
    "model_spec",
    "parse",
    "register_kind",
    "save_weights",
    "to_onnx",
    "to_torch",
    "towers_spec",
    "train",
    "unroll",
    "verify",
]


def __dir__() -> list[str]:
    return list(__all__)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rinsc' has no attribute '{name}'")
    home = _HOMES[name]
    if home in _NEEDS:
        require(*_NEEDS[home])
    return getattr(import_module(home), name)
