"""Drafts at one round against plain decoding at all rounds, greedy, one thread, fp32.

The models are trained here, in ten minutes each, with rounds drawn anew at every step; set
``RINSC_BENCH_SECONDS`` for another time. Bars: 1.5 times at six rounds, 1.2 times at three, and at
most 3 % slower when no draft is ever accepted.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.onnx.run.drafted import DraftedSequence
from rinsc.backends.torch import to_torch
from rinsc.drafting import Drafts
from rinsc.generation import checked_request
from rinsc.sampling import Sampling
from rinsc.spec import model_spec
from tests.bench.timing import interleaved, table

ROOT = Path(__file__).resolve().parents[2]
TEXT = b"".join(path.read_bytes() for path in sorted(ROOT.glob("docs/*.md")))
NEW_TOKENS = 160
BARS = {6: 1.5, 3: 1.2}


def trained(rounds: int) -> Session:
    """Bytes of the documentation, learned at rounds that each step draws from 1 to ``rounds``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    spec = model_spec(
        f"A[4]^{rounds}B[2]",
        layers=6,
        width=512,
        heads=8,
        kv_heads=8,
        mlp_width=1408,
        vocab_size=256,
        context=512,
    )
    model = to_torch(spec)
    data, rng = torch.tensor(list(TEXT)), np.random.default_rng(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    end = time.monotonic() + float(os.environ.get("RINSC_BENCH_SECONDS", "600"))
    while time.monotonic() < end:
        starts = rng.integers(0, len(data) - 65, 4)
        rows = torch.stack([data[start : start + 65] for start in starts])
        logits = model(rows[:, :-1], rounds=int(rng.integers(1, rounds + 1)))
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return Session(to_onnx(model.eval(), "dynamic", cache=True), threads=1)


def decoder(session: Session, rounds: int, draft: int | None, told: Drafts) -> Callable[[], object]:
    request = checked_request(list(TEXT[1000:1064]), NEW_TOKENS, session.spec)
    return lambda: list(session.steps(request, Sampling(), rounds, draft, drafts=told))


@pytest.mark.parametrize("rounds", BARS)
def test_drafts_save_time(rounds: int, monkeypatch: pytest.MonkeyPatch) -> None:
    session, told = trained(rounds), Drafts()
    plain = decoder(session, rounds, None, told)
    drafted = decoder(session, rounds, 1, told)
    assert plain() == drafted()
    timings = interleaved({"plain": plain, "drafted": drafted}, runs=8, warmup=1)
    print("\n" + table(f"A[4]^{rounds}B[2], {NEW_TOKENS} tokens", timings, "plain"))
    print(f"{told.text}; by place {told.hits} of {told.tried}")
    gain = timings["plain"].median / timings["drafted"].median

    right = DraftedSequence.draft

    def wrong(
        self: DraftedSequence, live: Sequence[int], tokens: Sequence[int]
    ) -> list[np.ndarray]:
        return [-logits for logits in right(self, live, tokens)]

    monkeypatch.setattr(DraftedSequence, "draft", wrong)
    told.hits.clear()
    told.tried.clear()
    timings = interleaved({"plain": plain, "never accepted": drafted}, runs=8, warmup=1)
    print("\n" + table("no draft is accepted", timings, "plain"))
    assert told.accepted == 0
    loss = timings["never accepted"].median / timings["plain"].median
    assert gain >= BARS[rounds]
    assert loss <= 1.03
