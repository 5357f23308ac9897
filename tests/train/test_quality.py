"""Quality from logits alone: against torch's own evaluation, and against a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from rinsc.backends.torch import CompiledModule
from rinsc.data.batches import TokenizedCorpus, cut_windows
from rinsc.errors import DataError
from rinsc.graph import Rounds
from rinsc.train import evaluate, quality
from rinsc.train.evaluate import HeldOut
from rinsc.train.quality import Ids, Logits, bits_per_byte, compare_quality


def _logits(model: CompiledModule, ids: Ids, rounds: Rounds) -> Logits:
    with torch.no_grad():
        found = model.eval()(torch.from_numpy(ids), rounds=rounds).numpy()
    return np.asarray(found, np.float32)


def _noisy(model: CompiledModule, ids: Ids, rounds: Rounds) -> Logits:
    """Logits of a model that is further off at more rounds."""
    made = _logits(model, ids, rounds)
    scale = 0.1 * (rounds if isinstance(rounds, int) else 1)
    waves = np.sin(np.arange(made.shape[-1]) * (ids[..., None] + 1))
    return np.asarray(made + scale * waves, np.float32)


def test_bits_per_byte_equal_those_of_torch(model: CompiledModule, tokens: TokenizedCorpus) -> None:
    windows = cut_windows(tokens.held_out, 23)[:40]
    found = bits_per_byte(lambda ids: _logits(model, ids, None), windows, tokens.token_bytes)
    held_out = HeldOut(windows, tokens.token_bytes[windows])
    expected = evaluate.bits_per_byte(model, held_out)
    assert found == pytest.approx(expected, abs=1e-5)


def test_the_rows_are_those_of_a_plain_loop(model: CompiledModule, tokens: TokenizedCorpus) -> None:
    found = compare_quality(
        lambda ids, rounds: _noisy(model, ids, rounds),
        lambda ids, rounds: _logits(model, ids, rounds),
        (1, 3),
        tokens.held_out[:400],
        tokens.token_bytes,
        context=23,
    )
    assert found.windows.shape == (17, 24)
    assert sorted(found.windows[:, 0]) == sorted(tokens.held_out[:391:23])
    for row, rounds in zip(found.rows, (1, 3), strict=True):
        nats = exact_nats = divergence = 0.0
        for window in found.windows.astype(np.int64):
            p = torch.from_numpy(_logits(model, window[None, :-1], rounds))[0].double()
            q = torch.from_numpy(_noisy(model, window[None, :-1], rounds))[0].double()
            p, q = p.log_softmax(-1), q.log_softmax(-1)
            targets = torch.from_numpy(window[1:])[:, None]
            exact_nats -= p.gather(1, targets).sum().item()
            nats -= q.gather(1, targets).sum().item()
            divergence += torch.nn.functional.kl_div(q, p, reduction="sum", log_target=True).item()
        bits = math.log(2) * found.byte_count
        assert row.rounds == rounds
        assert row.exact_bits_per_byte == pytest.approx(exact_nats / bits, rel=1e-5)
        assert row.bits_per_byte == pytest.approx(nats / bits, rel=1e-5)
        assert row.divergence_nats == pytest.approx(divergence / (17 * 23), rel=1e-3)
    assert found.rows[0].divergence_nats < found.rows[1].divergence_nats / 2
    assert found.byte_count == tokens.token_bytes[found.windows[:, 1:]].sum()


def test_a_model_alone_is_compared_with_nothing(
    model: CompiledModule, tokens: TokenizedCorpus
) -> None:
    found = compare_quality(
        lambda ids, rounds: _logits(model, ids, rounds),
        None,
        (2,),
        tokens.held_out[:400],
        tokens.token_bytes,
        context=29,
    )
    (row,) = found.rows
    held_out = HeldOut(found.windows, tokens.token_bytes[found.windows])
    expected = evaluate.bits_per_byte(model, held_out, rounds=2)
    assert row.exact_bits_per_byte == row.bits_per_byte == pytest.approx(expected, abs=1e-5)
    assert row.divergence_nats == 0


def test_the_time_is_bounded(tokens: TokenizedCorpus, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that only the model moves: a second for each 64 tokens."""
    now = 0.0
    told: list[float] = []

    def slow(ids: Ids, rounds: Rounds) -> Logits:
        nonlocal now
        now += ids.size / 64
        return np.zeros((*ids.shape, tokens.vocab_size), np.float32)

    monkeypatch.setattr("rinsc.train.quality.time.monotonic", lambda: now)
    found = compare_quality(
        *(slow, slow, (1, 2), tokens.held_out, tokens.token_bytes, 512),
        seconds=20,
        observe=told.append,
    )
    assert 10 < now <= 20
    assert found.windows.shape[1] - 1 >= quality.PROBE_TOKENS
    assert told == sorted(told)
    assert max(told) <= 1
    now = 0.0
    fixed = compare_quality(
        *(slow, None, (1,), tokens.held_out, tokens.token_bytes, 64), seconds=10
    )
    again = compare_quality(
        *(slow, None, (1,), tokens.held_out, tokens.token_bytes, 64), seconds=20
    )
    assert len(fixed.windows) < len(again.windows)
    np.testing.assert_array_equal(fixed.windows, again.windows[: len(fixed.windows)])


def test_too_little_text(tokens: TokenizedCorpus) -> None:
    def never(ids: Ids, rounds: Rounds) -> Logits:
        raise AssertionError

    with pytest.raises(DataError):
        compare_quality(never, None, (1,), tokens.held_out[:1], tokens.token_bytes, 8)
