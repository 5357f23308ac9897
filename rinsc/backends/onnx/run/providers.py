"""Execution providers: which are tried, in which order, and which really load.

ONNX Runtime lists the providers that it was built with and falls back to the CPU without a word
where one of them does not load; so a session is asked what it got.
"""

from __future__ import annotations

import ctypes
import io
import os
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

from rinsc.errors import LoweringError, did_you_mean

# In the order in which a session tries them.
PROVIDERS: Mapping[str, str] = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}

ONLY_FATAL = 4  # severity: what fails is told by us, so that logging it as well says it twice
WARNINGS = 2  # severity that the runtime starts with

# y = Abs(x), the smallest model that a provider can be asked to take: ModelProto with ir_version,
# graph (node, name, input and output of type float) and opset 13.
ONE_NODE = (
    b"\x08\x08\x3a\x2a\x0a\x0b\x0a\x01x\x12\x01y\x22\x03Abs\x12\x01g"
    b"\x5a\x0b\x0a\x01x\x12\x06\x0a\x04\x08\x01\x12\x00\x62\x0b\x0a\x01y\x12\x06\x0a\x04\x08\x01"
    b"\x12\x00\x42\x02\x10\x0d"
)


class ProviderWarning(UserWarning):
    """A provider is listed as available and does not load; the session runs on another one."""


def listed_providers() -> list[str]:
    """Those of `PROVIDERS` that the installed runtime was built with; they may not load."""
    import onnxruntime

    names = onnxruntime.get_available_providers()
    return [short for short, name in PROVIDERS.items() if name in names]


def why_not(provider: str) -> str | None:
    """None where a session of one node really gets the provider, else what the system says."""
    import onnxruntime

    if provider not in listed_providers():
        return f"onnxruntime {onnxruntime.__version__} is built without it"
    missing = _load_cuda_libraries() if provider == "cuda" else None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = ONLY_FATAL
    onnxruntime.set_default_logger_severity(ONLY_FATAL)
    try:
        names = [PROVIDERS[provider]]
        session = onnxruntime.InferenceSession(ONE_NODE, options, names, enable_fallback=0)
    except Exception as error:  # the runtime's errors have no base of their own
        return missing or str(error).strip().partition("\n")[0][:200]
    finally:
        onnxruntime.set_default_logger_severity(WARNINGS)
    if provider_of(session) != provider:
        fallback = f"the runtime falls back to the {provider_of(session).upper()}"
        return missing or _driver_problem() or fallback
    return None


def providers_to_ask(provider: str | None) -> tuple[list[str], str | None]:
    """The runtime's names to make a session with, and why CUDA, though listed, is not among them.

    Raises `LoweringError` for an unknown name and for one that was asked for and does not load.
    """
    if provider is not None and provider not in PROVIDERS:
        message = f"'{provider}' is not a provider"
        hint = did_you_mean(str(provider), PROVIDERS)
        raise LoweringError("unknown-provider", message, hint=hint)
    listed = listed_providers()
    reason = why_not("cuda") if "cuda" in (provider, *listed) and provider != "cpu" else None
    if provider == "cuda" and reason is not None:
        raise not_loaded(reason)
    candidates = listed if provider is None else [provider]
    names = [PROVIDERS[name] for name in candidates if name != "cuda" or reason is None]
    return names, reason


def not_loaded(reason: str) -> LoweringError:
    """The error where CUDA was asked for and a session does not get it."""
    loaded = [name for name in listed_providers() if name != "cuda" and why_not(name) is None]
    message = f"the provider cuda does not load: {reason}; loaded: {', '.join(loaded) or 'none'}"
    hint = "pip install 'rinsc[gpu]' in place of onnxruntime, or choose cpu; see rinsc doctor"
    return LoweringError("provider-not-loaded", message, hint=hint)


def provider_of(session: Any) -> str:
    """The provider that a session of the runtime really has: the first of its own list."""
    got = session.get_providers()
    return next(short for short, name in PROVIDERS.items() if name in got)


def _load_cuda_libraries() -> str | None:
    """Load CUDA from the packages that pip installed; what the loader says is missing."""
    import onnxruntime

    printed = io.StringIO()
    with redirect_stdout(printed):  # it prints what it cannot load
        onnxruntime.preload_dlls()
    lines = printed.getvalue().splitlines()
    failed = [line.partition(": ")[2] for line in lines if line.startswith("Failed to load")]
    return failed[0] if failed else None


def _driver_problem() -> str | None:
    """What the loader says of the GPU's driver, which comes with the system and with no package."""
    try:
        ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
    except OSError as error:
        return f"there is no NVIDIA driver: {error}"
    return None
