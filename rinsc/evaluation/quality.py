"""How well logits predict a text, and how far they are from another model's, without torch.

What gives the logits is any function of token ids: a session of ONNX Runtime, or a module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from rinsc.cost import forward_flops
from rinsc.data.batches import cut_windows
from rinsc.data.pieces import TokenIds
from rinsc.errors import DataError
from rinsc.graph import BlockGraph, Rounds

Ids: TypeAlias = npt.NDArray[np.int64]
Logits: TypeAlias = npt.NDArray[np.floating[Any]]
LogitsOf: TypeAlias = Callable[[Ids], Logits]  # (batch, seq) to (batch, seq, vocab)
RoundsLogitsOf: TypeAlias = Callable[[Ids, Rounds], Logits]
Observer: TypeAlias = Callable[[float], None]  # told which part of the work is done

BATCH_TOKENS = 1024  # run at once
LOGITS_AT_ONCE = 1 << 24  # of one call: 64 MiB of them
LOGITS_IN_A_CHUNK = 1 << 20  # of those turned into probabilities at once
ENOUGH_TOKENS = 8192  # predicted, for differences that hold
LEAST_TOKENS = 256  # of a model that is too large for more
PASS_FLOPS = 400_000_000_000  # of one pass over the text: seconds on a few cores


@dataclass
class Sums:
    """Over targets: losses of a model and of its exact twin, how far apart they are, bytes."""

    nats: float = 0.0
    exact_nats: float = 0.0
    divergence_nats: float = 0.0
    tokens: int = 0
    byte_count: int = 0


@dataclass(frozen=True)
class QualityRow:
    """A model at some rounds. ``divergence_nats`` is KL(exact || model) per token.

    Where a model is compared with nothing, both figures in bits are its own.
    """

    rounds: Rounds
    exact_bits_per_byte: float
    bits_per_byte: float
    divergence_nats: float


@dataclass(frozen=True)
class Quality:
    """One row for each of the rounds, all of them on the same windows (windows, seq + 1)."""

    rows: tuple[QualityRow, ...]
    windows: TokenIds
    byte_count: int


def bits_per_byte(
    logits_of: LogitsOf, windows: TokenIds, token_bytes: npt.NDArray[np.int64]
) -> float:
    """Loss on ``windows`` (windows, seq + 1): nats / ln 2 / bytes of text of the targets.

    The first token of each window is given, the others are predicted.
    """
    sums, pair = Sums(), _Pair(lambda ids, _: logits_of(ids), None, token_bytes)
    for batch in _batches(windows, min(BATCH_TOKENS, LOGITS_AT_ONCE // len(token_bytes))):
        pair.add(sums, None, batch)
    return sums.nats / math.log(2) / sums.byte_count


def compare_quality(
    model: RoundsLogitsOf,
    exact: RoundsLogitsOf | None,
    rounds: Sequence[Rounds],
    tokens: TokenIds,
    token_bytes: npt.NDArray[np.int64],
    context: int,
    *,
    most_tokens: int = ENOUGH_TOKENS,
    observe: Observer = lambda done: None,
) -> Quality:
    """The model at each of ``rounds`` on ``tokens`` ``(tokens,)``, beside its exact twin.

    Windows are as long as the context, as far as ``most_tokens`` and the memory for logits allow.
    They are taken from all over the text, in an order that is always the same, until
    ``most_tokens`` are predicted. No clock has a say, so that the same model on the same text
    always gives the same figures. Raises DataError for a text of less than two tokens.
    """
    if len(tokens) < 2:
        hint = "give a text of some sentences"
        raise DataError("too-little-text", "the text has nothing to predict", hint=hint)
    pair, at_once = _Pair(model, exact, token_bytes), LOGITS_AT_ONCE // len(token_bytes)
    length = max(1, min(context, len(tokens) - 1, most_tokens, at_once))
    windows = _spread(cut_windows(tokens, length), -(-most_tokens // length))
    every = [Sums() for _ in rounds]
    passes = len(windows) * len(rounds)
    done = 0
    for batch in _batches(windows, min(BATCH_TOKENS, at_once)):
        for sums, counts in zip(every, rounds, strict=True):
            pair.add(sums, counts, batch)
            done += len(batch)
            observe(done / passes)
    if every[0].byte_count == 0:
        hint = "give a text of some sentences"
        raise DataError("too-little-text", "the text has nothing to predict", hint=hint)
    pairs = zip(rounds, every, strict=True)
    rows = tuple(_row(counts, sums, alone=exact is None) for counts, sums in pairs)
    return Quality(rows, windows, every[0].byte_count)


def tokens_to_measure(graph: BlockGraph) -> int:
    """How many tokens a report predicts: a number that depends on the model's size alone.

    So all forms and precisions of a model, on any machine, are measured on the same windows.
    """
    length = min(graph.spec.context, ENOUGH_TOKENS)
    flops_per_token = forward_flops(graph, length).total / length
    return min(ENOUGH_TOKENS, max(LEAST_TOKENS, int(PASS_FLOPS / flops_per_token)))


@dataclass(frozen=True)
class _Pair:
    """A model, and its exact twin where there is one."""

    model: RoundsLogitsOf
    exact: RoundsLogitsOf | None
    token_bytes: npt.NDArray[np.int64]

    def add(self, sums: Sums, rounds: Rounds, windows: TokenIds) -> None:
        """Add what a batch of windows costs."""
        ids = windows.astype(np.int64)
        inputs, targets = ids[:, :-1], ids[:, 1:]
        exact = None if self.exact is None else self.exact(inputs, rounds)
        _add(sums, self.model(inputs, rounds), exact, targets, self.token_bytes)


def _spread(windows: TokenIds, most: int) -> TokenIds:
    """At most so many windows, in an order in which any first ones stand all over the text."""
    order = np.random.default_rng(0).permutation(len(windows))
    return windows[order[:most]]


def _row(rounds: Rounds, sums: Sums, *, alone: bool) -> QualityRow:
    bits = math.log(2) * sums.byte_count
    exact_nats = sums.nats if alone else sums.exact_nats
    divergence = max(sums.divergence_nats / sums.tokens, 0.0)  # rounding may bring it below
    return QualityRow(rounds, exact_nats / bits, sums.nats / bits, divergence)


def _batches(windows: TokenIds, most_tokens: int) -> Iterator[TokenIds]:
    """The windows, as many at once as have so many tokens, and one at least."""
    count = max(1, most_tokens // (windows.shape[1] - 1))
    for start in range(0, len(windows), count):
        yield windows[start : start + count]


def _add(
    sums: Sums,
    logits: Logits,
    exact: Logits | None,
    targets: Ids,
    token_bytes: npt.NDArray[np.int64],
) -> None:
    """Add what ``targets`` (batch, seq) cost under logits (batch, seq, vocab)."""
    flat, vocab = targets.reshape(-1), logits.shape[-1]
    rows = logits.reshape(-1, vocab)
    exact_rows = None if exact is None else exact.reshape(-1, vocab)
    size = max(1, LOGITS_IN_A_CHUNK // vocab)
    for start in range(0, len(flat), size):
        chunk = slice(start, start + size)
        log_probs = _log_probs(rows[chunk])
        targets_at = np.arange(len(log_probs)), flat[chunk]
        sums.nats -= float(log_probs[targets_at].sum(dtype=np.float64))
        if exact_rows is not None:
            exact_log_probs = _log_probs(exact_rows[chunk])
            sums.exact_nats -= float(exact_log_probs[targets_at].sum(dtype=np.float64))
            apart = np.exp(exact_log_probs) * (exact_log_probs - log_probs)
            sums.divergence_nats += float(apart.sum(dtype=np.float64))
    sums.tokens += len(flat)
    sums.byte_count += int(token_bytes[flat].sum())


def _log_probs(logits: Logits) -> npt.NDArray[np.float32]:
    """Log of the softmax over the last axis of ``(tokens, vocab)``."""
    shifted = logits.astype(np.float32)
    shifted -= shifted.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True, dtype=np.float64)
    normalised: npt.NDArray[np.float32] = shifted - np.log(total).astype(np.float32)
    return normalised
