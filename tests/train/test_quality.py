"""Quality from logits alone: against torch's own evaluation, and against a plain loop."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
import torch

from rinsc.backends.torch import CompiledModule
from rinsc.cost import forward_flops
from rinsc.data.batches import TokenizedCorpus, cut_windows
from rinsc.errors import DataError
from rinsc.evaluation import quality
from rinsc.evaluation.quality import (
    Ids,
    Logits,
    bits_per_byte,
    compare_quality,
    tokens_to_measure,
)
from rinsc.graph import Rounds, build_graph
from rinsc.objectives import next_token as evaluate
from rinsc.objectives.next_token import HeldOut
from rinsc.spec import model_spec


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


@pytest.mark.parametrize("seconds", [0.0, 1e-9, 7.0, 1e6])
def test_no_clock_decides_the_windows(
    model: CompiledModule,
    tokens: TokenizedCorpus,
    monkeypatch: pytest.MonkeyPatch,
    seconds: float,
) -> None:
    """Whatever time the model takes, the windows are so many, and the figures the same."""
    now, told, text = 0.0, list[float](), tokens.held_out

    def slow(ids: Ids, rounds: Rounds) -> Logits:
        nonlocal now
        now += seconds
        return _logits(model, ids, rounds)

    for clock in ("monotonic", "perf_counter", "time", "process_time"):
        monkeypatch.setattr(time, clock, lambda: now)
    found = compare_quality(
        *(slow, slow, (1, 2), text, tokens.token_bytes, 23),
        most_tokens=500,
        observe=told.append,
    )
    assert found.windows.shape == (22, 24)
    assert told == sorted(told)
    assert told[-1] == 1
    held_out = HeldOut(found.windows, tokens.token_bytes[found.windows])
    for row in found.rows:
        expected = evaluate.bits_per_byte(model, held_out, rounds=row.rounds)
        assert row.bits_per_byte == pytest.approx(expected, abs=1e-5)


def test_more_tokens_are_the_same_ones_and_more(
    model: CompiledModule, tokens: TokenizedCorpus
) -> None:
    fewer, more = (
        compare_quality(
            *(lambda ids, rounds: _logits(model, ids, rounds), None, (1,)),
            *(tokens.held_out, tokens.token_bytes, 23),
            most_tokens=count,
        )
        for count in (300, 900)
    )
    assert len(fewer.windows) < len(more.windows)
    np.testing.assert_array_equal(fewer.windows, more.windows[: len(fewer.windows)])


def test_how_many_tokens_depends_on_the_size_of_the_model() -> None:
    small, middle, large = (
        tokens_to_measure(build_graph(model_spec("(A^3)B", preset=name)))
        for name in ("tiny", "small", "1b")
    )
    assert small == quality.ENOUGH_TOKENS > middle > large >= quality.LEAST_TOKENS
    spec = model_spec("(A^3)B", preset="small")
    passed = forward_flops(build_graph(spec), spec.context).total / spec.context * middle
    assert passed == pytest.approx(quality.PASS_FLOPS, rel=0.01)


def test_too_little_text(tokens: TokenizedCorpus) -> None:
    def never(ids: Ids, rounds: Rounds) -> Logits:
        raise AssertionError

    with pytest.raises(DataError):
        compare_quality(never, None, (1,), tokens.held_out[:1], tokens.token_bytes, 8)
