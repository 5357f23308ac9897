"""Quality on held-out text; bits per byte does not depend on the tokenizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from rinsc.data.batches import TokenizedCorpus, cut_windows, evenly_spaced
from rinsc.formats import TrainingPrecision
from rinsc.graph import Rounds
from rinsc.training.devices import autocast
from rinsc.training.metrics import Part

EVALUATION_BATCH = 16  # sequences at once
LOGITS_AT_ONCE = 1 << 27  # of one batch: 512 MiB of them

Observe: TypeAlias = Callable[[int, int], None]  # windows done, of how many


@dataclass(frozen=True)
class Evaluation:
    """Summed loss over the targets, those told right, and the bytes of text that they stand for."""

    nats: float
    correct: int
    tokens: int
    byte_count: int

    @property
    def bits_per_byte(self) -> float:
        return self.nats / math.log(2) / self.byte_count

    @property
    def perplexity(self) -> float:
        """Per token of this tokenizer; infinite where a float cannot hold it."""
        mean = self.nats / self.tokens
        return math.inf if mean >= 700 else math.exp(mean)

    @property
    def accuracy(self) -> float:
        """Share of the targets that are the likeliest token."""
        return self.correct / self.tokens


@dataclass(frozen=True)
class BlockLosses:
    """Loss and bytes of text of each block, ``(blocks,)`` each.

    A block of which not all is predicted, as the beginning of a text, is not ``is_whole``.
    """

    nats: npt.NDArray[np.float64]
    byte_counts: npt.NDArray[np.int64]
    is_whole: npt.NDArray[np.bool_]

    @property
    def bits_per_byte(self) -> float:
        return float(self.nats.sum()) / math.log(2) / float(self.byte_counts.sum())

    def only(self, chosen: npt.NDArray[np.bool_]) -> BlockLosses:
        """Those of the first blocks that are chosen, a bool each."""
        (places,) = chosen.nonzero()
        return BlockLosses(self.nats[places], self.byte_counts[places], self.is_whole[places])


@dataclass(frozen=True)
class HeldOut:
    """Windows of held-out text, and the bytes that their tokens stand for: (windows, seq + 1)."""

    windows: npt.NDArray[Any]
    byte_counts: npt.NDArray[Any]

    def spread(self, count: int | None) -> HeldOut:
        """At most ``count`` of the windows, from all over the text; None means all of them."""
        return HeldOut(evenly_spaced(self.windows, count), evenly_spaced(self.byte_counts, count))

    def part(self, count: int | None) -> Part:
        """What `spread` of so many windows gives: a sample of the text, or the whole of it."""
        return "whole" if count is None or count >= len(self.windows) else "sample"

    @property
    def predicted_bytes(self) -> int:
        """Bytes of text that the targets stand for: all but the first token of each window."""
        return int(self.byte_counts[:, 1:].sum(dtype=np.int64))


@dataclass(frozen=True)
class Blocks:
    """To which block of the text each token of the windows belongs: (windows, seq + 1)."""

    of_tokens: npt.NDArray[np.int64]
    is_whole: npt.NDArray[np.bool_]


def window_blocks(held_out: HeldOut) -> Blocks:
    """Each window is a block: for models that read the text in the same windows."""
    count, length = held_out.windows.shape
    of_tokens = np.broadcast_to(np.arange(count)[:, None], (count, length))
    return Blocks(of_tokens, np.ones(count, dtype=np.bool_))


def byte_blocks(held_out: HeldOut, block_bytes: int) -> Blocks:
    """Blocks of so many bytes: for models whose tokens or windows differ on one text.

    The windows must be all of the text. A token belongs where its first byte is. The block with the
    first token, which is nobody's target, is not whole, nor is the one that the windows end in.
    """
    ends = np.cumsum(held_out.byte_counts[:, :-1].ravel(), dtype=np.int64)
    starts = np.concatenate([[0], ends])  # of each token; the last of a window begins the next
    of_text = starts // block_bytes
    length = held_out.windows.shape[1] - 1
    is_whole = np.ones(int(of_text[-1]) + 1, dtype=np.bool_)
    is_whole[[0, -1]] = False
    return Blocks(cut_windows(of_text, length), is_whole)


def held_out_windows(corpus: TokenizedCorpus, sequence_length: int) -> HeldOut:
    """The held-out part of a corpus as windows; raises DataError where it fills none."""
    return HeldOut(
        cut_windows(corpus.held_out, sequence_length),
        cut_windows(corpus.held_out_bytes, sequence_length),
    )


def evaluate(
    model: nn.Module,
    held_out: HeldOut,
    *,
    rounds: Rounds = None,
    precision: TrainingPrecision = "fp32",
    observe: Observe = lambda done, count: None,
) -> Evaluation:
    """``model`` on held-out windows: a module that gives logits, or a model of transformers.

    The first token of each window is given, the others are predicted; only their bytes count. The
    model is left in the mode it was in.
    """
    blocks = window_blocks(held_out)
    found, _ = evaluate_blocks(
        model, held_out, blocks, rounds=rounds, precision=precision, observe=observe
    )
    return found


def evaluate_blocks(
    model: nn.Module,
    held_out: HeldOut,
    blocks: Blocks,
    *,
    rounds: Rounds = None,
    precision: TrainingPrecision = "fp32",
    observe: Observe = lambda done, count: None,
) -> tuple[Evaluation, BlockLosses]:
    """`evaluate`, and the losses of each block."""
    count = len(blocks.is_whole)
    nats, byte_counts = np.zeros(count), np.zeros(count, dtype=np.int64)
    correct = 0
    device = next(model.parameters()).device
    with _eval_mode(model), torch.no_grad(), autocast(device, precision):
        for place, losses, right in _predictions(model, held_out.windows, rounds, device):
            inside = blocks.of_tokens[place, 1:].ravel()
            np.add.at(nats, inside, losses)
            np.add.at(byte_counts, inside, held_out.byte_counts[place, 1:].ravel())
            correct += right
            observe(place.stop, len(held_out.windows))
    tokens = held_out.windows[:, 1:].size
    evaluation = Evaluation(float(nats.sum()), correct, tokens, held_out.predicted_bytes)
    return evaluation, BlockLosses(nats, byte_counts, blocks.is_whole)


def _predictions(
    model: nn.Module, windows: npt.NDArray[Any], rounds: Rounds, device: torch.device
) -> Iterator[tuple[slice, npt.NDArray[np.float64], int]]:
    """Batch by batch: which windows, the loss of each target in a row, how many are told right."""
    size = 1  # until the vocabulary is known
    start = 0
    while start < len(windows):
        batch = torch.from_numpy(windows[start : start + size].astype(np.int64)).to(device)
        logits = logits_of(model, batch[:, :-1], rounds).flatten(0, 1)
        targets = batch[:, 1:].flatten()
        losses = nn.functional.cross_entropy(logits, targets, reduction="none")
        right = int((logits.argmax(-1) == targets).sum())
        yield slice(start, start + len(batch)), losses.double().numpy(force=True), right
        start += len(batch)
        logits_of_one = logits.numel() // len(batch)
        size = max(1, min(EVALUATION_BATCH, LOGITS_AT_ONCE // logits_of_one))


def bits_per_byte(
    model: nn.Module,
    held_out: HeldOut,
    *,
    rounds: Rounds = None,
    precision: TrainingPrecision = "fp32",
) -> float:
    """`evaluate`, as the one number: nats / ln 2 / bytes of text that the targets cover."""
    return evaluate(model, held_out, rounds=rounds, precision=precision).bits_per_byte


def quality_against_rounds(
    model: nn.Module, held_out: HeldOut, rounds: Iterable[int]
) -> dict[int, float]:
    """Bits per byte of one model run at each of the given numbers of rounds."""
    return {r: bits_per_byte(model, held_out, rounds=r) for r in rounds}


def logits_of(model: nn.Module, input_ids: torch.Tensor, rounds: Rounds) -> torch.Tensor:
    """Logits (batch, seq, vocab_size) in fp32, of our modules and of models of transformers."""
    whole = isinstance(getattr(model, "module", model), PreTrainedModel)
    # A cache would be kept for nothing, and compiled blocks made anew for each of its slots.
    output = model(input_ids, rounds=rounds, **({"use_cache": False} if whole else {}))
    logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output.logits
    return logits.float()


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
