"""Which arithmetic a device is fast at."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

from rinsc.backends.torch.device import usable_device
from rinsc.cost.memory import Precision


def autocast(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    """Matrix products in bf16 where ``precision`` says so; weights stay as they are."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")


def fast_precision(device: torch.device | str) -> Precision:
    """``bf16`` where the device multiplies it in hardware, else ``fp32``, which is faster there."""
    device = usable_device(device)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return "bf16" if features.get("avx512_bf16") or features.get("amx_bf16") else "fp32"
    return "fp32"
