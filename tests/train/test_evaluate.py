"""Bits per byte against a plain loop, and against values that can be worked out on paper."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rinsc.backends.hf import causal_lm
from rinsc.data.batches import TokenizedCorpus
from rinsc.data.tokenizer import BytePairTokenizer
from rinsc.objectives.next_token import (
    HeldOut,
    bits_per_byte,
    byte_blocks,
    evaluate,
    evaluate_blocks,
    held_out_windows,
    logits_of,
    window_blocks,
)
from rinsc.spec import ModelSpec, model_spec

LENGTH = 23


class Uniform(nn.Module):
    """Gives every token the same chance."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.level = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, input_ids: torch.Tensor, rounds: int | None = None) -> torch.Tensor:
        return self.level.expand(*input_ids.shape, -1)


def _plain_bits_per_byte(
    model: nn.Module, tokens: TokenizedCorpus, tokenizer: BytePairTokenizer, rounds: int | None
) -> float:
    """One window, one position at a time; bytes counted from the decoded text."""
    nats, covered = 0.0, bytearray()
    ids = tokens.held_out.tolist()
    for start in range(0, len(ids) - LENGTH, LENGTH):
        window = ids[start : start + LENGTH + 1]
        with torch.no_grad():
            logits = model(torch.tensor([window[:-1]]), rounds=rounds)[0].double()
        for position, target in enumerate(window[1:]):
            scores = logits[position].tolist()
            nats += math.log(sum(math.exp(score) for score in scores)) - scores[target]
        covered += tokenizer.decode(window[1:]).encode()
    return nats / math.log(2) / len(covered)


@pytest.fixture
def held_out(tokens: TokenizedCorpus) -> HeldOut:
    return held_out_windows(tokens, LENGTH)


@pytest.mark.parametrize("rounds", [None, 1, 2])
def test_bits_per_byte_equal_a_plain_loop(
    model: nn.Module,
    held_out: HeldOut,
    tokens: TokenizedCorpus,
    tokenizer: BytePairTokenizer,
    rounds: int | None,
) -> None:
    found = bits_per_byte(model, held_out, rounds=rounds)
    assert found == pytest.approx(_plain_bits_per_byte(model, tokens, tokenizer, rounds), rel=1e-6)


def test_the_plain_loop_can_disagree(
    model: nn.Module, held_out: HeldOut, tokens: TokenizedCorpus, tokenizer: BytePairTokenizer
) -> None:
    expected = _plain_bits_per_byte(model, tokens, tokenizer, None)
    per_token = HeldOut(held_out.windows, np.ones_like(held_out.byte_counts))
    assert bits_per_byte(model, per_token) != pytest.approx(expected, rel=1e-3)
    backwards = HeldOut(held_out.windows[:, ::-1], held_out.byte_counts)
    assert bits_per_byte(model, backwards) != pytest.approx(expected, rel=1e-6)


def test_a_uniform_model_has_the_value_of_the_formula(
    held_out: HeldOut, tokens: TokenizedCorpus
) -> None:
    result = evaluate(Uniform(tokens.vocab_size), held_out)
    targets = held_out.windows[:, 1:].flatten()
    text_bytes = int(tokens.token_bytes[targets].sum())
    assert result.byte_count == text_bytes
    assert result.nats == pytest.approx(len(targets) * math.log(tokens.vocab_size))
    expected = len(targets) * math.log2(tokens.vocab_size) / text_bytes
    assert result.bits_per_byte == pytest.approx(expected)
    assert result.perplexity == pytest.approx(tokens.vocab_size)


def test_perplexity_and_accuracy_are_those_of_transformers(
    spec: ModelSpec, held_out: HeldOut
) -> None:
    torch.manual_seed(5)
    model = causal_lm(spec)
    model.train(False)
    few = held_out.spread(20)
    ids = torch.from_numpy(few.windows.astype(np.int64))
    with torch.no_grad():
        output = model(ids, labels=ids, rounds=2)
    result = evaluate(model, few, rounds=2)
    assert result.perplexity == pytest.approx(math.exp(float(output.loss)), rel=1e-5)
    right = (output.logits[:, :-1].argmax(-1) == ids[:, 1:]).double().mean()
    assert result.accuracy == pytest.approx(float(right))


def test_the_mode_of_the_model_is_kept(model: nn.Module, held_out: HeldOut) -> None:
    for training in (True, False):
        model.train(training)
        evaluate(model, held_out.spread(1))
        assert model.training is training
        assert torch.is_grad_enabled()


def test_bf16_is_close_to_fp32(model: nn.Module, held_out: HeldOut) -> None:
    few = held_out.spread(3)
    exact = bits_per_byte(model, few)
    rough = bits_per_byte(model, few, precision="bf16")
    assert rough != exact
    assert rough == pytest.approx(exact, rel=1e-2)


def test_every_window_is_observed(model: nn.Module, held_out: HeldOut) -> None:
    told: list[tuple[int, int]] = []
    evaluate(model, held_out, observe=lambda done, count: told.append((done, count)))
    count = len(held_out.windows)
    assert told[-1] == (count, count)
    assert [done for done, _ in told] == sorted({done for done, _ in told})


def test_windows_as_blocks_are_windows_alone(model: nn.Module, held_out: HeldOut) -> None:
    few = held_out.spread(5)
    whole, losses = evaluate_blocks(model, few, window_blocks(few))
    for place in range(5):
        alone = evaluate(
            model, HeldOut(few.windows[place : place + 1], few.byte_counts[place : place + 1])
        )
        assert losses.totals[place] == pytest.approx(alone.nats / math.log(2), rel=1e-6)
        assert losses.sizes[place] == alone.byte_count
    assert losses.figure == pytest.approx(whole.bits_per_byte, rel=1e-12)


@pytest.mark.parametrize("block_bytes", [1, 37, 10**9])
def test_blocks_of_bytes_are_where_the_tokens_begin(
    held_out: HeldOut, tokens: TokenizedCorpus, block_bytes: int
) -> None:
    blocks = byte_blocks(held_out, block_bytes)
    model = Uniform(tokens.vocab_size)
    _, losses = evaluate_blocks(model, held_out, blocks)
    bits: dict[int, float] = {}
    byte_counts: dict[int, int] = {}
    place = 0
    last = len(held_out.windows) * LENGTH
    for index, token in enumerate(tokens.held_out[: last + 1].tolist()):
        size = int(tokens.token_bytes[token])
        if index > 0:
            block = place // block_bytes
            bits[block] = bits.get(block, 0.0) + math.log2(tokens.vocab_size)
            byte_counts[block] = byte_counts.get(block, 0) + size
        place += size
    assert {b: n for b, n in enumerate(losses.totals) if n} == pytest.approx(bits)
    assert {b: n for b, n in enumerate(losses.sizes) if n} == byte_counts
    assert not losses.is_whole[0]
    assert not losses.is_whole[-1]
    assert losses.is_whole[1:-1].all()


def test_an_evaluation_keeps_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = causal_lm(model_spec("A^2B", preset="tiny", layers=2))

    def kept(*_: object, **__: object) -> None:
        raise AssertionError("a cache was made")

    monkeypatch.setattr("rinsc.backends.hf.caching.DynamicCache", kept)
    logits_of(model.eval(), torch.zeros(1, 5, dtype=torch.long), 2)
