"""The ONNX backend against its bars: export time, size, latency of the dial, session memory."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rinsc.backends.onnx import RoundsForm, Session, to_onnx
from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.progress import SilentProgress
from rinsc.spec import ModelSpec, model_spec, towers_spec
from rinsc.verbs.export import export
from tests.bench.timing import interleaved, table

FORMS: tuple[RoundsForm, ...] = (1, 3, 8, "dynamic")


def make_spec(width: int = 256) -> ModelSpec:
    return model_spec(
        "(A^3)B",
        layers=4,
        width=width,
        heads=4,
        mlp_width=width * 11 // 4,
        vocab_size=512,
        context=256,
    )


def make_model(width: int = 256) -> CompiledModule:
    torch.manual_seed(0)
    return to_torch(make_spec(width))


def test_two_towers_of_the_size_of_b16_are_written_in_seconds(tmp_path: Path) -> None:
    """The three files of SigLIP B/16, 1.6 GB, on the disk; a run in a process that is warm."""
    spec = towers_spec("image: A, text: B", preset="siglip-b16")
    module = to_torch(spec)
    export(to_torch(towers_spec("image: A, text: B", preset="siglip-tiny")), tmp_path / "warm")
    walls, times = [], []
    for _ in range(3):
        start, begun = time.perf_counter(), time.process_time()
        done = export(module, tmp_path / "b16", overwrite=True, progress=SilentProgress())
        walls.append(time.perf_counter() - start)
        times.append(time.process_time() - begun)
    wall, processor = statistics.median(walls), statistics.median(times)
    print(f"\nSigLIP B/16, {done.size / 1e9:.2f} GB: {wall:.1f} s, {processor:.1f} s of processors")
    assert processor < 5
    assert wall < 5


def test_export_takes_no_time_and_adds_no_bytes() -> None:
    model = make_model()
    weight_bytes = sum(parameter.nbytes for parameter in model.parameters())
    print(
        f"\n{'export, width 256':28}{'build ms':>10}{'+ bytes ms':>12}{'KiB added':>11}{'ratio':>8}"
    )
    to_onnx(model).check()
    for form in FORMS:
        samples = []
        for _ in range(15):
            start = time.thread_time()
            exported = to_onnx(model, form)
            built = time.thread_time()
            size = len(exported.to_bytes())
            samples.append((built - start, time.thread_time() - start))
        build, whole = (statistics.median(times) for times in zip(*samples, strict=True))
        print(
            f"{f'rounds {form}':28}{build * 1e3:10.1f}{whole * 1e3:12.1f}"
            f"{(size - weight_bytes) / 1024:11.1f}{size / weight_bytes:8.3f}"
        )
        assert whole < 0.5
        assert size <= weight_bytes * 1.02 + 64 * 1024


@pytest.mark.parametrize("width", [64, 256])
@pytest.mark.parametrize("seq", [16, 128])
@pytest.mark.parametrize("rounds", [1, 3, 8])
def test_the_dial_costs_hardly_any_time(width: int, seq: int, rounds: int) -> None:
    model = make_model(width)
    input_ids = np.random.default_rng(0).integers(0, 512, (1, seq))
    fixed = Session(to_onnx(model, rounds), threads=1)
    dial = Session(to_onnx(model, "dynamic"), threads=1)
    timings = interleaved(
        {
            "unrolled": lambda: fixed.logits(input_ids),
            "dynamic": lambda: dial.logits(input_ids, rounds),
        },
        runs=200,
    )
    print("\n" + table(f"width {width}, seq {seq}, {rounds} rounds", timings, "unrolled"))
    assert timings["dynamic"].median <= 1.10 * timings["unrolled"].median


MEASURE = """
import sys
import numpy as np
from rinsc.backends.onnx import Session
import onnxruntime

def resident():
    with open("/proc/self/statm") as status:
        return int(status.read().split()[1]) * 4096

before = resident()
session = Session(sys.argv[1], threads=1)
loaded = resident() - before
session.logits(np.zeros((1, 128), np.int64), None if sys.argv[2] == "None" else int(sys.argv[2]))
print(loaded, resident() - before)
"""


def session_memory(path: Path, rounds: int | None) -> tuple[float, float]:
    """MB that a session holds once loaded, and after a first run, in a process of its own."""
    command = [sys.executable, "-c", MEASURE, str(path), str(rounds)]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    loaded, run = (int(number) / 1e6 for number in output.split())
    return loaded, run


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("width", [256, 1024])
def test_memory_does_not_grow_with_the_rounds(tmp_path: Path, width: int) -> None:
    model = make_model(width)
    weight_mb = sum(parameter.nbytes for parameter in model.parameters()) / 1e6
    title = f"session, width {width}, {weight_mb:.1f} MB of weights"
    print(f"\n{title:44}{'loaded MB':>10}{'run MB':>9}{'ratio':>8}")
    first: float | None = None
    for form, rounds in [(1, None), (8, None), ("dynamic", 1), ("dynamic", 8)]:
        path = tmp_path / f"{form}.onnx"
        to_onnx(model, form).save(path)  # type: ignore[arg-type]
        loaded, run = session_memory(path, rounds)
        first = first or run
        print(f"{f'rounds {form} {rounds or str()}':44}{loaded:10.1f}{run:9.1f}{run / first:8.3f}")
        assert run <= 1.1 * first
