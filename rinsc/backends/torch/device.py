"""Devices as callers name them, looked for before anything is made on them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn

from rinsc.errors import UsageError
from rinsc.formats import FORMATS, TrainingPrecision
from rinsc.scalars import whole


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Without what training draws, such as stochastic depth."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def usable_device(device: object = None) -> torch.device:
    """The device of this name or number, or torch's default one; raises `UsageError` where PyTorch
    knows no such device or cannot use it here."""
    if isinstance(device, torch.device) and device.type in ("cpu", "meta"):
        return device
    try:
        if device is None:
            default: torch.device = torch.get_default_device()  # which uses it
            return default
        number = whole(device)
        named: Any = device if number is None else number
        place = torch.device(named)
        torch.empty(0, device=place)  # a build without the device has the name all the same
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError):
        raise no_device(device) from None
    return place


def no_device(device: object, also: Sequence[str] = ("meta",)) -> UsageError:
    """The error for a device that is not there; it names those that are, and ``also`` these."""
    name = "default device" if device is None else f"device '{device!s:.40}'"
    message = f"PyTorch cannot use the {name} here"
    return UsageError("no-device", message, hint=f"available: {', '.join([*devices(), *also])}")


def devices() -> list[str]:
    """The devices that PyTorch can compute on here."""
    found = torch.accelerator.current_accelerator(check_available=True)
    count = 0 if found is None else torch.accelerator.device_count()
    gpus = [] if found is None else [f"{found.type}:{index}" for index in range(count)]
    return [*gpus, "cpu"]


def autocast(device: torch.device, precision: TrainingPrecision) -> AbstractContextManager[None]:
    """Matrix products in ``precision``; weights stay as they are, in fp32."""
    dtype = getattr(torch, FORMATS[precision].torch)
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")
