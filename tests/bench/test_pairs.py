"""Pairs many times faster than training takes them, and memory that does not grow with epochs."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import rinsc
from rinsc.data.pairs import (
    PicturePairs,
    TrainingPairs,
    collate_pairs,
    learned_caption_tokenizer,
    open_pairs,
)
from rinsc.objectives import objective
from rinsc.progress import SilentProgress

PICTURES, SIDE, BATCH = 4000, 32, 128
LEAST_RATIO = 3.0  # of the loader's speed to that of training


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> PicturePairs:
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(PICTURES):
        pixels = rng.integers(0, 256, (96, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.jpg", quality=80)
        words = rng.choice(["red", "blue", "dog", "cat", "big", "small"], 5)
        (folder / f"{number}.txt").write_text(" ".join(words))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RINSC_DATA", str(tmp_path_factory.mktemp("data")))
        start = time.process_time(), time.perf_counter()
        opened = open_pairs(f"pairs:{folder}", SIDE, progress=SilentProgress())
        cpu, wall = time.process_time() - start[0], time.perf_counter() - start[1]
        start = time.process_time(), time.perf_counter()
        open_pairs(f"pairs:{folder}", SIDE, progress=SilentProgress())
        again = time.perf_counter() - start[1]
    print(
        f"\n{PICTURES:,} pictures decoded in {wall:.1f} s ({cpu:.1f} s of a core), "
        f"found again in {again:.2f} s"
    )
    return opened


def test_the_loader_is_never_what_training_waits_for(pairs: PicturePairs) -> None:
    torch.set_num_threads(1)
    examples = TrainingPairs(pairs, learned_caption_tokenizer(pairs, 300, 16), 0)
    loaded, memory = [], []
    for epoch in range(4):
        start, count = time.process_time(), 0
        for first in range(epoch * len(examples), (epoch + 1) * len(examples) - BATCH, BATCH):
            collate_pairs([examples.window(index) for index in range(first, first + BATCH)])
            count += BATCH
        loaded.append(count / (time.process_time() - start))
        memory.append(own_memory())
    spec = rinsc.towers_spec("image: AB, text: CD", preset="siglip-tiny")
    trained = objective("sigmoid_pairs")
    model = trained.module(spec, torch.device("cpu"))
    batch = trained.collate([examples.window(index) for index in range(BATCH)])
    steps = []
    for _ in range(4):
        start = time.process_time()
        model(**batch)["loss"].backward()
        steps.append(BATCH / (time.process_time() - start))
    ratio = max(loaded) / max(steps)
    growth = memory[-1] - memory[1]
    print(
        f"\nloader {max(loaded):,.0f} pairs/s, forward and backward pass of siglip-tiny "
        f"{max(steps):,.0f} pairs/s: {ratio:,.0f} times; memory {memory[-1] / 1e6:.0f} MB, "
        f"{growth / 1e6:+.1f} MB over two epochs"
    )
    assert ratio > LEAST_RATIO
    assert growth < 4e6


def own_memory() -> int:
    """Bytes of this process that are no pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024
