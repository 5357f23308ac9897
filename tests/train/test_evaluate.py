"""Bits per byte against a plain loop, and against values that can be worked out on paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from rinsc.train.batches import TokenizedCorpus, cut_windows
from rinsc.train.evaluate import bits_per_byte, evaluate, quality_against_rounds
from rinsc.train.tokenizer import BytePairTokenizer

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


@pytest.mark.parametrize("rounds", [None, 1, 2])
def test_bits_per_byte_equal_a_plain_loop(
    model: nn.Module, tokens: TokenizedCorpus, tokenizer: BytePairTokenizer, rounds: int | None
) -> None:
    windows = cut_windows(tokens.held_out, LENGTH)
    found = bits_per_byte(model, windows, tokens.token_bytes, rounds=rounds)
    assert found == pytest.approx(_plain_bits_per_byte(model, tokens, tokenizer, rounds), rel=1e-6)


def test_the_plain_loop_can_disagree(
    model: nn.Module, tokens: TokenizedCorpus, tokenizer: BytePairTokenizer
) -> None:
    windows = cut_windows(tokens.held_out, LENGTH)
    expected = _plain_bits_per_byte(model, tokens, tokenizer, None)
    per_token = np.ones_like(tokens.token_bytes)
    assert bits_per_byte(model, windows, per_token) != pytest.approx(expected, rel=1e-3)
    shifted = windows[:, ::-1]
    assert bits_per_byte(model, shifted, tokens.token_bytes) != pytest.approx(expected, rel=1e-6)


def test_a_uniform_model_has_the_value_of_the_formula(tokens: TokenizedCorpus) -> None:
    windows = cut_windows(tokens.held_out, LENGTH)
    result = evaluate(Uniform(tokens.vocab_size), windows, tokens.token_bytes)
    targets = windows[:, 1:].flatten()
    text_bytes = int(tokens.token_bytes[targets].sum())
    assert result.byte_count == text_bytes
    assert result.nats == pytest.approx(len(targets) * math.log(tokens.vocab_size))
    expected = len(targets) * math.log2(tokens.vocab_size) / text_bytes
    assert result.bits_per_byte == pytest.approx(expected)


def test_quality_at_each_of_the_rounds(model: nn.Module, tokens: TokenizedCorpus) -> None:
    windows = cut_windows(tokens.held_out, LENGTH)[:3]
    found = quality_against_rounds(model, windows, tokens.token_bytes, (1, 3, 4))
    assert list(found) == [1, 3, 4]
    assert found[3] == bits_per_byte(model, windows, tokens.token_bytes)
    assert len(set(found.values())) == 3


def test_the_mode_of_the_model_is_kept(model: nn.Module, tokens: TokenizedCorpus) -> None:
    windows = cut_windows(tokens.held_out, LENGTH)[:1]
    for training in (True, False):
        model.train(training)
        evaluate(model, windows, tokens.token_bytes)
        assert model.training is training


def test_bf16_is_close_to_fp32(model: nn.Module, tokens: TokenizedCorpus) -> None:
    windows = cut_windows(tokens.held_out, LENGTH)[:3]
    exact = bits_per_byte(model, windows, tokens.token_bytes)
    rough = bits_per_byte(model, windows, tokens.token_bytes, precision="bf16")
    assert rough != exact
    assert rough == pytest.approx(exact, rel=1e-2)
