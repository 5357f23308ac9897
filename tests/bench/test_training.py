"""The training loop against a bare loop over the same module, in one run."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from rinsc.backends.hf import causal_lm
from rinsc.backends.torch import to_torch
from rinsc.data.batches import TokenizedCorpus, TrainingWindows
from rinsc.spec import ModelSpec, model_spec
from rinsc.training.config import TrainConfig
from rinsc.training.devices import fast_precision
from rinsc.training.metrics import Metrics
from rinsc.training.result import TrainResult
from rinsc.training.run import train_module
from rinsc.training.run_folder import open_run_folder
from tests.bench.timing import Timing, table

VOCAB, CONTEXT, BATCH = 512, 128, 8
STEPS, WARMUP = 30, 6


def make_spec(signature: str, width: int = 256) -> ModelSpec:
    return model_spec(
        signature,
        layers=4,
        width=width,
        heads=width // 32 if width >= 64 else 2,
        mlp_width=width * 11 // 4,
        vocab_size=VOCAB,
        context=CONTEXT,
        tied_embedding=True,
    )


def make_corpus() -> TokenizedCorpus:
    """Token ids that cost as much as a text's."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, VOCAB, 400_000, dtype=np.uint16)
    held_out = ids[:1024]
    return TokenizedCorpus(
        ids,
        held_out,
        np.ones(VOCAB, dtype=np.int64),
        {"corpus": {"name": "random"}, "tokenizer": {}},
        np.ones(len(held_out), dtype=np.int64),
        np.zeros(1, dtype=np.int64),
        VOCAB,
    )


def bare_step(spec: ModelSpec, corpus: TokenizedCorpus, config: TrainConfig) -> Callable[[], None]:
    """What a user writes by hand: batch, forward, loss, backward, clip, AdamW."""
    model: Any = to_torch(spec)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, fused=True)
    windows = TrainingWindows(corpus.train, CONTEXT, 0)
    step = 0

    def run() -> None:
        nonlocal step
        rows = [windows.window(step * BATCH + row) for row in range(BATCH)]
        input_ids = torch.from_numpy(np.stack([row.input_ids for row in rows]))
        targets = torch.from_numpy(np.stack([row.targets for row in rows]))
        loss: Any = F.cross_entropy(model(input_ids).flatten(0, 1).float(), targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), config.clip)
        optimizer.step()
        loss.item()
        step += 1

    return run


class Turns:
    """Runs a bare step after each of the training loop's, and times both."""

    def __init__(self, bare: Callable[[], None]) -> None:
        self._bare = bare
        self.samples: dict[str, list[float]] = {"bare loop": [], "rinsc": []}
        self._start = 0.0

    def started(self, config: TrainConfig, step: int) -> None: ...

    def finished(self, result: TrainResult) -> None: ...

    def stepped(self, metrics: Metrics) -> None:
        middle = time.thread_time()
        self._bare()
        end = time.thread_time()
        if metrics.step > WARMUP:
            self.samples["rinsc"].append((middle - self._start) * 1e3)
            self.samples["bare loop"].append((end - middle) * 1e3)
        self._start = time.thread_time()

    @property
    def timings(self) -> dict[str, Timing]:
        return {
            name: Timing(statistics.median(times), statistics.quantiles(times, n=10)[0], len(times))
            for name, times in self.samples.items()
        }


def compare(
    folder: Path, title: str, *, width: int = 256, steps: int = STEPS, **changes: Any
) -> dict[str, Timing]:
    """Plain fp32 steps of the bare loop beside ours, whose settings may be others."""
    torch.set_num_threads(1)
    spec, corpus = make_spec("(A^3)B", width), make_corpus()
    config = TrainConfig(
        steps=steps,
        batch_sequences=BATCH,
        sequence_length=CONTEXT,
        eval_every=10**6,
        checkpoint_every=10**6,
    )
    turns = Turns(bare_step(spec, corpus, config))
    settings = replace(config, **changes)
    train_module(causal_lm(spec), spec, corpus, settings, open_run_folder(folder), observer=turns)
    timings = turns.timings
    print("\n" + table(title, timings, "bare loop"))
    return timings


def test_a_step_of_the_training_loop(tmp_path: Path) -> None:
    timings = compare(tmp_path / "run", "training step, width 256, fp32")
    assert timings["rinsc"].median <= 1.05 * timings["bare loop"].median


@pytest.mark.parametrize("width", [32, 64])
def test_a_step_of_a_tiny_model(width: int, tmp_path: Path) -> None:
    title = f"training step, width {width}, fp32"
    timings = compare(tmp_path / "run", title, width=width, steps=100)
    assert timings["rinsc"].median <= 1.10 * timings["bare loop"].median


def test_a_fast_step(tmp_path: Path) -> None:
    """``--fast``: bf16 where the device multiplies it in hardware, and compiled blocks."""
    precision = fast_precision("cpu")
    title = f"training step, width 256, --fast ({precision}, compiled), against plain fp32"
    timings = compare(tmp_path / "run", title, precision=precision, compile=True)
    assert timings["rinsc"].median <= 0.55 * timings["bare loop"].median


@pytest.mark.parametrize("how", ["round", "visit"])
def test_peak_activation_memory(tmp_path: Path, how: str) -> None:
    """`A^8B` with checkpointing, over `AB` without."""
    plain = peak_activation_bytes("AB", "none", tmp_path / "plain.json")
    recursive = peak_activation_bytes("A^8B", how, tmp_path / "recursive.json")
    kept = peak_activation_bytes("A^8B", "none", tmp_path / "kept.json")
    ratio = recursive / plain
    print(
        f"\npeak activations: AB {plain / 1e6:.1f} MB, A^8B {kept / 1e6:.1f} MB, "
        f"by {how} {recursive / 1e6:.1f} MB: {ratio:.3f} of AB"
    )
    assert ratio <= 1.25


def peak_activation_bytes(signature: str, how: Any, trace: Path) -> int:
    """The most bytes that a step holds beyond weights and gradients, by PyTorch's own profiler."""
    model: Any = causal_lm(make_spec(signature))
    model.set_checkpointing(how)
    model.train()
    input_ids = torch.randint(VOCAB, (BATCH, CONTEXT))

    def step() -> None:
        model(input_ids, shift_labels=input_ids).loss.backward()

    step()  # gradients are there from here on
    with torch.profiler.profile(profile_memory=True) as profile:
        step()
    profile.export_chrome_trace(str(trace))
    events = json.loads(trace.read_text(encoding="utf-8"))["traceEvents"]
    memory = sorted((e["ts"], e["args"]) for e in events if e.get("name") == "[memory]")
    totals = [args["Total Allocated"] for _, args in memory if args["Device Type"] == 0]
    first = next(args for _, args in memory if args["Device Type"] == 0)
    return int(max(totals) - (first["Total Allocated"] - first["Bytes"]))
