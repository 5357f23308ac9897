"""Training the 300m preset of (A^3)B on one GPU: against its matrix peak, and by hand.

Needs PyTorch and this checkout, nothing else: the module is `emitted_300m.py`, which a test holds
to what rinsc emits. From the root of the checkout: ``python -m tests.bench.gpu.train_300m``. Prints
a table, writes it as JSON where ``--json`` says, and ends with status 1 where a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tests.bench.gpu import emitted_300m
from tests.bench.hand_written import HandWritten

MFU_BAR = 0.45  # of the measured matrix peak
SPEED_BAR = 1.0  # over the hand-written module compiled whole
VARYING_BAR = 0.97  # of the speed at fixed rounds, FLOP for FLOP
VARYING_ROUNDS = (3, 1, 4, 2, 5, 3)
PEAK_SIZE = {"cuda": 8192, "cpu": 512}


@dataclass(frozen=True)
class Setting:
    """What a step trains on, and where."""

    device: torch.device
    batch: int
    seq: int
    steps: int


@dataclass(frozen=True)
class Measured:
    """A contender's steps."""

    name: str
    median_ms: float
    p10_ms: float
    tokens_per_second: float
    mfu: float


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seq", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    setting = Setting(torch.device(given.device), given.batch, given.seq, given.steps)
    peak = matrix_peak_flops(setting.device)
    print(f"{device_name(setting.device)}, torch {torch.__version__}, bf16 peak {peak:.3e} FLOP/s")
    rows = measure(setting, peak)
    for row in rows:
        print(
            f"{row.name:42}{row.median_ms:10.1f} ms{row.p10_ms:10.1f} ms (p10)"
            f"{row.tokens_per_second:12,.0f} tokens/s{row.mfu:8.1%} MFU"
        )
    missed = missed_bars(rows)
    print("\n".join(missed) or "every bar is reached")
    if given.json:
        facts = {"device": device_name(setting.device), "torch": torch.__version__, "peak": peak}
        facts |= {"rows": [vars(row) for row in rows], "missed": missed}
        given.json.write_text(json.dumps(facts, indent=2), encoding="utf-8")
    return 1 if missed else 0


def measure(setting: Setting, peak: float) -> list[Measured]:
    """Ours compiled by block, at fixed and at varying rounds, and the hand-written one whole."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")
    with setting.device:
        ours: Any = emitted_300m.Model()
        theirs: Any = HandWritten(**emitted_300m.DIMENSIONS)
    for name in emitted_300m.BLOCKS:
        getattr(ours, name).compile()
    theirs.compile()
    fixed = emitted_300m.ROUNDS["A"]
    contenders: dict[str, tuple[Any, Sequence[int]]] = {
        "rinsc, compiled by block": (ours, (fixed,)),
        "hand-written, compiled whole": (theirs, (fixed,)),
        "rinsc, rounds from step to step": (ours, VARYING_ROUNDS),
    }
    steps = {name: stepper(model, setting) for name, (model, _) in contenders.items()}
    for name, (_, rounds) in contenders.items():  # compile everything
        for count in rounds:
            steps[name](count)
            steps[name](count)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for index in range(setting.steps):
        for name, (_, rounds) in contenders.items():
            count = rounds[index % len(rounds)]
            seconds[name].append(timed(partial(steps[name], count), setting.device))
            spent[name].append(emitted_300m.training_flops(count, setting.batch, setting.seq))
    return [summary(name, seconds[name], spent[name], setting, peak) for name in contenders]


def stepper(model: nn.Module, setting: Setting) -> Callable[[int], None]:
    """One step of training: bf16 under autocast, fp32 weights, clipping, fused AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    shape = (setting.batch, setting.seq + 1)
    ids = torch.randint(emitted_300m.DIMENSIONS["vocab"], shape, device=setting.device)

    def step(rounds: int) -> None:
        with torch.autocast(setting.device.type, dtype=torch.bfloat16):
            logits = model(ids[:, :-1], rounds=rounds)
            loss = F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def summary(
    name: str, seconds: list[float], flops: list[float], setting: Setting, peak: float
) -> Measured:
    total = sum(seconds)
    return Measured(
        name,
        statistics.median(seconds) * 1e3,
        sorted(seconds)[len(seconds) // 10] * 1e3,
        len(seconds) * setting.batch * setting.seq / total,
        sum(flops) / total / peak,
    )


def missed_bars(rows: Sequence[Measured]) -> list[str]:
    ours, by_hand, varying = rows
    speed, share = by_hand.median_ms / ours.median_ms, varying.mfu / ours.mfu
    missed = []
    if ours.mfu < MFU_BAR:
        missed.append(f"MFU {ours.mfu:.1%}, bar {MFU_BAR:.0%}")
    if speed < SPEED_BAR:
        missed.append(f"{speed:.3f} x the hand-written module compiled whole, bar {SPEED_BAR}")
    if share < VARYING_BAR:
        missed.append(f"{share:.3f} of the speed where rounds vary, bar {VARYING_BAR}")
    return missed


def matrix_peak_flops(device: torch.device) -> float:
    """The best of several large square bf16 products."""
    size = PEAK_SIZE[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    best = min(timed(lambda: torch.matmul(left, right), device) for _ in range(30))
    return float(2 * size**3 / best)


def timed(call: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, the device's own work included."""
    finish(device)
    start = time.perf_counter()
    call()
    finish(device)
    return time.perf_counter() - start


def finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


if __name__ == "__main__":
    sys.exit(main())
