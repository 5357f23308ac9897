"""Fair timing of decoders: they take turns of a few tokens, and each is loaded several times.

A session may run some percent faster or slower than an identical one, for as long as it lives:
where its memory came to lie decides, and the first one loaded is the likeliest to be slow. So all
contenders are loaded several times over, in an order that turns around each time, and what counts
is the best load's median (and the best load's 10th percentile). A turn is several tokens of which
the first is not counted: it finds the caches of the processor full of the others' weights, which
does not happen to a model that generates alone.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

from tests.bench.timing import Timing

Decoder: TypeAlias = Callable[[], object]  # a call adds one token
Loader: TypeAlias = Callable[[], Decoder]

TOKENS_PER_TURN = 8


def decode_timings(
    loaders: Mapping[str, Loader], *, loads: int = 4, turns: int = 12
) -> dict[str, Timing]:
    """CPU milliseconds a token of every contender; ``runs`` counts all tokens of all loads."""
    medians: dict[str, list[float]] = {name: [] for name in loaders}
    lows: dict[str, list[float]] = {name: [] for name in loaders}
    counted = 0
    for load in range(loads):
        names = list(loaders) if load % 2 == 0 else list(loaders)[::-1]
        decoders = {name: loaders[name]() for name in names}
        samples = _take_turns(decoders, turns)
        for name, times in samples.items():
            medians[name].append(statistics.median(times))
            lows[name].append(statistics.quantiles(times, n=10)[0])
        counted += turns * (TOKENS_PER_TURN - 1)
        del decoders
        gc.collect()
    return {name: Timing(min(medians[name]), min(lows[name]), counted) for name in loaders}


def _take_turns(decoders: Mapping[str, Decoder], turns: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(turns):
        for name, decode in decoders.items():
            decode()
            for _ in range(TOKENS_PER_TURN - 1):
                start = time.thread_time()
                decode()
                samples[name].append((time.thread_time() - start) * 1e3)
    return samples
