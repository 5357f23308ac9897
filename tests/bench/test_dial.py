"""Decoding a recursive model: the dial against fixed rounds, shared weights against distinct ones.

`A^rB`, which is `(A^3)B` and `A^6B` alike: as 2 + 1 layers at 1 to 6 rounds, and as 4 + 4 at 1, 3
and 6. The looped block of two layers (26 MB in fp32, 3.6 in int4) stays in a last cache of 32 MB;
that of four layers is 51 MB in fp32 and does not. Bars: the dial takes at most 1.05 of the time of
the model written for the same rounds, and the model of as many layers that are all distinct takes
longer: 1.15 times as long in fp32 and 1.4 times in int4. At context 1024 the keys and values, which
nothing shares, are most of what is read in int4, and that bar is missed.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from rinsc.backends.onnx import to_onnx
from rinsc.graph import build_graph
from tests.bench.bounds import TokenBytes, read_bytes_per_second, token_bytes
from tests.bench.decoders import decoder_spec, loaded, random_module, saved
from tests.bench.timing import Timing
from tests.bench.turns import TOKENS_PER_TURN, Loader, decode_timings

MOST_ROUNDS = 6
ROUNDS = {2: (1, 2, 3, 4, 5, 6), 4: (1, 3, 6)}  # by layers of the looped block
TURNS = 8
DISTINCT_AT = (3, 6)
DISTINCT_BARS = {"fp32": 1.15, "int4": 1.4}

HEAD = (
    f"{'':20}{'median ms':>10}{'p10 ms':>8}{'of fixed':>9}"
    f"{'touched MB':>11}{'bound ms':>9}{'unique MB':>10}{'bound ms':>9}{'stands at':>10}"
)


def line(name: str, timing: Timing, fixed: Timing, read: TokenBytes, speed: float) -> str:
    """``stands at`` is 0 at the bound of the unique bytes and 1 at that of the bytes touched."""
    touched, unique = read.touched / speed * 1e3, read.unique / speed * 1e3
    gap = touched - unique
    stands = f"{(timing.median - unique) / gap:10.2f}" if gap > 0 else f"{'-':>10}"
    return (
        f"{name:20}{timing.median:10.3f}{timing.p10:8.3f}{timing.median / fixed.median:9.3f}"
        f"{read.touched / 1e6:11.1f}{touched:9.3f}{read.unique / 1e6:10.1f}{unique:9.3f}{stands}"
    )


def distinct_signature(looped: int, last: int, rounds: int) -> str:
    letters = "ABCDEFGHIJ"[: rounds + 1]
    return "".join(f"{letter}[{looped}]" for letter in letters[:-1]) + f"{letters[-1]}[{last}]"


@pytest.mark.parametrize("context", [128, 1024])
@pytest.mark.parametrize("precision", ["fp32", "int4"])
@pytest.mark.parametrize(("looped", "last"), [(2, 1), (4, 4)])
def test_the_dial(tmp_path: Path, looped: int, last: int, precision: str, context: int) -> None:
    spec = decoder_spec(f"A[{looped}]^{MOST_ROUNDS}B[{last}]")
    module, graph = random_module(spec), build_graph(spec)
    dial = saved(module, tmp_path / "dial.onnx", "dynamic", precision)
    exported = to_onnx(module, cache=True, precision=precision, calibrate=False)
    speed = read_bytes_per_second()
    past = context + TURNS * TOKENS_PER_TURN // 2
    print(f"\n{looped} + {last} layers, {precision}, context {context}, {speed / 1e9:.1f} GB/s")
    print(HEAD)
    dial_ratios, distinct_ratios = {}, {}
    for rounds in ROUNDS[looped]:
        fixed = saved(module, tmp_path / f"{rounds}.onnx", rounds, precision)
        loaders: dict[str, Loader] = {
            "fixed": partial(loaded, fixed, context),
            "dial": partial(loaded, dial, context, rounds),
        }
        if rounds in DISTINCT_AT:
            other = decoder_spec(distinct_signature(looped, last, rounds))
            path = saved(random_module(other), tmp_path / "distinct.onnx", precision=precision)
            loaders["distinct"] = partial(loaded, path, context)
        timings = decode_timings(loaders, turns=TURNS)
        shared = token_bytes(exported, graph, rounds, past)
        for name, timing in timings.items():
            read = TokenBytes(shared.touched, shared.touched) if name == "distinct" else shared
            print(line(f"{name}, {rounds} rounds", timing, timings["fixed"], read, speed))
        dial_ratios[rounds] = timings["dial"].median / timings["fixed"].median
        if rounds in DISTINCT_AT:
            distinct_ratios[rounds] = timings["distinct"].median / timings["dial"].median
    print("dial over fixed: " + ", ".join(f"{k}: {v:.3f}" for k, v in dial_ratios.items()))
    print("distinct over dial: " + ", ".join(f"{k}: {v:.3f}" for k, v in distinct_ratios.items()))
    assert max(dial_ratios.values()) <= 1.05
    assert min(distinct_ratios.values()) >= DISTINCT_BARS[precision]
