"""20 MB of text tokenized and packed, and windows many times faster than training takes them."""

from __future__ import annotations

import platform
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rinsc.backends.torch import to_torch
from rinsc.data.batches import TrainingWindows
from rinsc.data.cache import prepare
from rinsc.data.corpora import training_texts
from rinsc.data.text_files import TextFiles
from rinsc.data.tokenizer import train_tokenizer
from rinsc.spec import model_spec

TEXT_BYTES = 20_000_000
LENGTH = 128
BATCH = 16
VOCAB = 4096
LEARNED_FROM = 4_000_000  # bytes


@pytest.fixture(scope="module")
def source() -> TextFiles:
    """So much of the standard library's source, with its tests."""
    library = Path(sysconfig.get_path("stdlib"))
    files: dict[str, Path] = {}
    total = 0
    for path in sorted(library.rglob("*.py")):
        if "site-packages" in path.parts or not _is_utf8(path):
            continue
        files[path.relative_to(library).as_posix()] = path
        total += path.stat().st_size
        if total >= TEXT_BYTES:
            return TextFiles("the standard library", files)
    raise AssertionError("the standard library is smaller than that")


def test_text_becomes_packed_tokens(source: TextFiles, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(training_texts(source, LEARNED_FROM), VOCAB)
    start = time.perf_counter()
    corpus = prepare(source, tokenizer, folder=tmp_path)
    windows = TrainingWindows(corpus.train, LENGTH, seed=0)
    windows.window(0)
    first = time.perf_counter() - start
    start = time.perf_counter()
    prepare(source, tokenizer, folder=tmp_path)
    again = time.perf_counter() - start
    tokens = len(corpus.train) + len(corpus.held_out)
    print(
        f"\n{source.total_bytes / 1e6:.1f} MB to {tokens:,} tokens of {VOCAB} in {first:.1f} s, "
        f"found again in {again:.3f} s (Python {platform.python_version()})"
    )
    assert first < 30
    assert again < first / 20


@pytest.mark.parametrize("packing", ["across", "documents"])
def test_the_loader_is_never_the_bottleneck(packing: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    count = 10_000_000
    path = tmp_path / "tokens"
    rng.integers(0, VOCAB, count, dtype=np.uint16).tofile(path)
    tokens = np.memmap(path, dtype=np.uint16, mode="r")
    starts = np.arange(0, count, 977)
    windows = TrainingWindows(tokens, LENGTH, 0, packing, starts)  # type: ignore[arg-type]
    windows.window(0)
    start = time.perf_counter()
    for index in range(5000):
        windows.window(index)
    loaded = 5000 * LENGTH / (time.perf_counter() - start)
    trained = _training_tokens_per_second()
    times = f"{loaded:,.0f} tokens/s loaded, {trained:,.0f} trained on: {loaded / trained:.0f} x"
    print(f"\n{packing}: {times}")
    assert loaded > 20 * trained


def _training_tokens_per_second() -> float:
    """Of the tiny preset with one thread a core: forward, backward and the optimizer."""
    spec = model_spec("A^3B", preset="tiny", context=LENGTH)
    model = to_torch(spec)
    optimizer = torch.optim.AdamW(model.parameters())
    batch = torch.randint(spec.vocab_size, (BATCH, LENGTH + 1))
    times = []
    for _ in range(6):
        start = time.perf_counter()
        logits = model(batch[:, :-1])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return BATCH * LENGTH / min(times)


def _is_utf8(path: Path) -> bool:
    try:
        path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return False
    return True
