"""bf16 is chosen only where the processor has it."""

from __future__ import annotations

import pytest
import torch

from rinsc.backends.torch.device import autocast
from rinsc.formats import TrainingPrecision
from rinsc.training.devices import fast_precision

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx512_bf16": True, "amx_bf16": False}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
        ({"avx2": True, "avx512_bf16": False}, "fp32"),
        ({}, "fp32"),
    ],
)
def test_the_processor_decides(
    monkeypatch: pytest.MonkeyPatch, features: dict[str, bool], expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features, raising=False)
    assert fast_precision(CPU) == expected


def test_an_unknown_device_stays_with_fp32() -> None:
    assert fast_precision(torch.device("meta")) == "fp32"


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_products_run_in_the_precision_asked_for(
    precision: TrainingPrecision, dtype: torch.dtype
) -> None:
    with autocast(CPU, precision):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
