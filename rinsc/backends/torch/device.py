"""Devices as callers name them, looked for before anything is made on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, ClassVar, Self

import torch
from torch import nn

from rinsc.errors import UsageError
from rinsc.formats import FORMATS, TrainingPrecision
from rinsc.scalars import whole
from rinsc.spec import ModelSpec


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
        usable = torch.device(named)
        torch.empty(0, device=usable)  # a build without the device has the name all the same
    except (RuntimeError, AssertionError, ImportError, TypeError, ValueError):
        raise no_device(device) from None
    return usable


def no_device(device: object, also: Sequence[str] = ("meta",)) -> UsageError:
    """The error for a device that is not there; it names those that are, and ``also`` these."""
    name = "default device" if device is None else f"device '{device!s:.40}'"
    message = f"PyTorch cannot use the {name} here"
    return UsageError("no-device", message, hint=f"available: {', '.join([*devices(), *also])}")


def devices() -> list[str]:
    """The devices that PyTorch can compute on here."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    count = 0 if accelerator is None else torch.accelerator.device_count()
    gpus = [] if accelerator is None else [f"{accelerator.type}:{index}" for index in range(count)]
    return [*gpus, "cpu"]


def autocast(device: torch.device, precision: TrainingPrecision) -> AbstractContextManager[None]:
    """Matrix products in ``precision``; weights stay as they are, in fp32."""
    dtype = getattr(torch, FORMATS[precision].torch)
    return torch.autocast(device.type, dtype=dtype, enabled=precision != "fp32")


class TableKeeper(nn.Module):
    """A module whose tables follow its weights off the device ``meta``.

    ``to_empty`` leaves every buffer without values, and ``load_state_dict(…, assign=True)`` leaves
    those that no file holds on ``meta``: both would give wrong logits, or none.
    """

    spec: ClassVar[ModelSpec]  # that it was emitted from

    def reset_tables(self) -> None:
        """Make the tables that are computed, not trained; emitted modules say how."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        was_empty = any(table.is_meta for table in self.buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        tables = list(self.buffers(recurse=False))
        if was_empty and not tables[0].is_meta:
            self._reset_tables(tables[0])
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, *rest: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        tables = list(self.buffers(recurse=False))
        loaded = [tensor for name, tensor in state_dict.items() if name.startswith(prefix)]
        is_assigned = local_metadata.get("assign_to_params_buffers", False)
        if is_assigned and loaded and tables and tables[0].is_meta and not loaded[0].is_meta:
            self._reset_tables(loaded[0])

    def _reset_tables(self, like: torch.Tensor) -> None:
        dtypes = {name: table.dtype for name, table in self.named_buffers(recurse=False)}
        with like.device:
            self.reset_tables()
        for name, dtype in dtypes.items():
            self.register_buffer(name, self.get_buffer(name).to(dtype), persistent=False)
