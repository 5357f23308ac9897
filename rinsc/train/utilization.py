"""How fast a device multiplies matrices: what the FLOPs of training are held against."""

from __future__ import annotations

import time
from functools import lru_cache

import torch

from rinsc.cost.memory import Precision

SIZES = {"cuda": 8192, "cpu": 1024}
SECONDS = 0.15  # spent on measuring, at least


@lru_cache(maxsize=8)
def matrix_peak_flops(device: torch.device, precision: Precision) -> float:
    """Measured FLOPs per second of a large square matrix product, the best of several."""
    size = SIZES.get(device.type, 1024)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(0)  # the random state of the run is its own
    left, right = (
        torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2)
    )
    torch.matmul(left, right)
    best, spent = float("inf"), 0.0
    while spent < SECONDS:
        _finish(device)
        begun = time.perf_counter()
        torch.matmul(left, right)
        _finish(device)
        seconds = time.perf_counter() - begun
        best, spent = min(best, seconds), spent + seconds
    return 2 * size**3 / best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
