"""Fair timing on shared cores: one thread, thread CPU clock, interleaved, median and p10."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Milliseconds of CPU time of one call."""

    median: float
    p10: float
    runs: int


def interleaved(
    contenders: dict[str, Callable[[], object]], *, runs: int, warmup: int = 3
) -> dict[str, Timing]:
    """Time every contender in turn, ``runs`` times over."""
    samples: dict[str, list[float]] = {name: [] for name in contenders}
    for run in range(warmup + runs):
        for name, call in contenders.items():
            start = time.thread_time()
            call()
            if run >= warmup:
                samples[name].append((time.thread_time() - start) * 1e3)
    return {
        name: Timing(
            median=statistics.median(times),
            p10=statistics.quantiles(times, n=10)[0],
            runs=len(times),
        )
        for name, times in samples.items()
    }


def table(title: str, timings: dict[str, Timing], reference: str) -> str:
    """Lines with each contender's times and its ratios to the reference."""
    lines = [title, f"{'':28}{'median ms':>12}{'p10 ms':>10}{'ratio':>8}{'p10 ratio':>11}"]
    base = timings[reference]
    for name, timing in timings.items():
        lines.append(
            f"{name:28}{timing.median:12.3f}{timing.p10:10.3f}"
            f"{timing.median / base.median:8.3f}{timing.p10 / base.p10:11.3f}"
        )
    return "\n".join([*lines, f"n = {base.runs}"])
