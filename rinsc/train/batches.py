"""The corpus as token windows, and which windows each training step sees."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rinsc.errors import DataError, Problem
from rinsc.train.data import Corpus
from rinsc.train.tokenizer import BytePairTokenizer, TokenIds, encode_exactly


@dataclass(frozen=True)
class TokenizedCorpus:
    """Both parts of a corpus as token ids ``(tokens,)``.

    ``token_bytes`` has shape ``(vocab,)``: the bytes that each token stands for. ``record`` says
    what the text and the tokenizer were.
    """

    train: TokenIds
    held_out: TokenIds
    token_bytes: npt.NDArray[np.int64]
    record: Mapping[str, object]

    @property
    def vocab_size(self) -> int:
        return len(self.token_bytes)


def tokenize(corpus: Corpus, tokenizer: BytePairTokenizer) -> TokenizedCorpus:
    """Encode both parts; raises DataError where the text does not survive it."""
    train = encode_exactly(tokenizer, (document.text for document in corpus.train))
    held_out = encode_exactly(tokenizer, (document.text for document in corpus.held_out))
    digest = hashlib.sha256(tokenizer.to_json().encode("utf-8")).hexdigest()
    tokens = {
        "vocab_size": tokenizer.vocab_size,
        "sha256": digest,
        "train_tokens": len(train),
        "held_out_tokens": len(held_out),
        "held_out_bytes_per_token": _bytes_per_token(tokenizer, held_out),
    }
    return TokenizedCorpus(
        train, held_out, tokenizer.token_bytes, {"corpus": corpus.record(), "tokenizer": tokens}
    )


def _bytes_per_token(tokenizer: BytePairTokenizer, ids: TokenIds) -> float:
    return float(tokenizer.token_bytes[ids].sum()) / max(1, len(ids))


def cut_windows(tokens: TokenIds, sequence_length: int) -> TokenIds:
    """Windows of ``sequence_length`` + 1 tokens, ``(windows, seq + 1)``, a view of ``tokens``.

    The last token of a window is the first of the next, so each token but the first is a target
    exactly once; an incomplete window at the end is left out. Raises DataError where not one fits.
    """
    if len(tokens) < sequence_length + 1:
        raise DataError(
            Problem(
                code="too-little-text",
                message=f"{len(tokens)} tokens do not fill one sequence of {sequence_length}",
                hint="use more text or a shorter sequence_length",
            )
        )
    every = np.lib.stride_tricks.sliding_window_view(tokens, sequence_length + 1)
    return every[::sequence_length]


def evenly_spaced(windows: TokenIds, count: int | None) -> TokenIds:
    """``count`` of the windows, spread over all of them, always the same ones; None means all."""
    if count is None or count >= len(windows):
        return windows
    return windows[np.arange(count) * len(windows) // count]


class TrainingBatches:
    """Which windows a step trains on, as a pure function of seed and step.

    Each epoch sees every window once in an order of its own; a batch may span two epochs, and
    epochs repeat for as long as training lasts.
    """

    def __init__(self, windows: TokenIds, batch_sequences: int, seed: int) -> None:
        self._windows = windows
        self._batch_sequences = batch_sequences
        self._seed = seed
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """The windows of ``step``, counted from 0, as ``(batch, seq + 1)``."""
        first = step * self._batch_sequences
        places = range(first, first + self._batch_sequences)
        count = len(self._windows)
        chosen = [self._epoch_order(place // count)[place % count] for place in places]
        return self._windows[chosen].astype(np.int64)

    def epochs(self, steps: int) -> float:
        """How often ``steps`` steps go through the windows."""
        return steps * self._batch_sequences / len(self._windows)

    def _epoch_order(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._order is None or self._order[0] != epoch:
            rng = np.random.default_rng([self._seed, epoch])
            self._order = (epoch, rng.permutation(len(self._windows)))
        return self._order[1]
