"""The next token of a text: cross-entropy in training, bits per byte on held-out text.

Bits per byte does not depend on the tokenizer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import PreTrainedModel

from rinsc.backends.hf import RinscForCausalLM, causal_lm
from rinsc.backends.torch.device import autocast, evaluating
from rinsc.data.batches import (
    NO_TARGET,
    TokenizedCorpus,
    TrainingWindows,
    Window,
    cut_windows,
    evenly_spaced,
)
from rinsc.data.cache import learned_tokenizer, prepare
from rinsc.data.corpora import open_corpus
from rinsc.data.documents import Source
from rinsc.data.tokenizer import BytePairTokenizer, load_tokenizer, tokenizer_from_state
from rinsc.errors import SpecError, plural, setting
from rinsc.formats import TrainingPrecision
from rinsc.graph import Rounds
from rinsc.objectives import OBJECTIVES, Observe, Part, Pieces, Request, Settings
from rinsc.progress import PreparationProgress, Progress
from rinsc.spec import ModelSpec

EVALUATION_BATCH = 16  # sequences at once
LOGITS_AT_ONCE = 1 << 27  # of one batch: 512 MiB of them


@dataclass(frozen=True)
class Evaluation:
    """Summed loss over the targets, those told right, and the bytes of text that they stand for."""

    nats: float
    correct: int
    tokens: int
    byte_count: int
    pieces: Pieces | None = field(default=None, compare=False, repr=False)  # a window each

    @property
    def figures(self) -> Mapping[str, float]:
        return {
            "bits_per_byte": self.bits_per_byte,
            "perplexity": self.perplexity,
            "accuracy": self.accuracy,
        }

    @property
    def extent(self) -> Mapping[str, int]:
        return {"bytes": self.byte_count}

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
class HeldOut:
    """Windows of held-out text, and the bytes that their tokens stand for: (windows, seq + 1)."""

    windows: npt.NDArray[Any]
    byte_counts: npt.NDArray[Any]

    def __len__(self) -> int:
        return len(self.windows)

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
    evaluation, pieces = evaluate_blocks(
        model, held_out, blocks, rounds=rounds, precision=precision, observe=observe
    )
    return replace(evaluation, pieces=pieces)


def evaluate_blocks(
    model: nn.Module,
    held_out: HeldOut,
    blocks: Blocks,
    *,
    rounds: Rounds = None,
    precision: TrainingPrecision = "fp32",
    observe: Observe = lambda done, count: None,
) -> tuple[Evaluation, Pieces]:
    """`evaluate`, and the bits and bytes of each block."""
    count = len(blocks.is_whole)
    nats, byte_counts = np.zeros(count), np.zeros(count, dtype=np.int64)
    correct = 0
    device = next(model.parameters()).device
    with evaluating(model), torch.no_grad(), autocast(device, precision):
        for rows, losses, right in _predictions(model, held_out.windows, rounds, device):
            inside = blocks.of_tokens[rows, 1:].ravel()
            np.add.at(nats, inside, losses)
            np.add.at(byte_counts, inside, held_out.byte_counts[rows, 1:].ravel())
            correct += right
            observe(rows.stop, len(held_out.windows))
    tokens = held_out.windows[:, 1:].size
    evaluation = Evaluation(float(nats.sum()), correct, tokens, held_out.predicted_bytes)
    return evaluation, Pieces(nats / math.log(2), byte_counts, blocks.is_whole)


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


def logits_of(model: nn.Module, input_ids: torch.Tensor, rounds: Rounds) -> torch.Tensor:
    """Logits (batch, seq, vocab_size) in fp32, of our modules and of models of transformers."""
    whole = isinstance(getattr(model, "module", model), PreTrainedModel)
    # A cache would be kept for nothing, and compiled blocks made anew for each of its slots.
    output = model(input_ids, rounds=rounds, **({"use_cache": False} if whole else {}))
    logits: torch.Tensor = output if isinstance(output, torch.Tensor) else output.logits
    return logits.float()


class NextToken:
    """The objective: text in, logits of each next token out."""

    name = "next_token"
    piece, too_few, noise = "window", "too little text", "text"
    figures = OBJECTIVES["next_token"].figures

    def dimensions(self, data: str) -> Mapping[str, Any]:
        return {}

    def prepare(self, request: Request) -> str:
        corpus = open_corpus(request.data)
        tokenizer = _tokenizer(corpus, request)
        if not request.resume:  # which has more to say of another model
            check_vocabulary(request.spec, tokenizer.vocab_size)
        _prepared(corpus, tokenizer, request.progress)
        return tokenizer.to_state()

    def open(self, request: Request, state: str) -> TokenizedCorpus:
        tokenizer = tokenizer_from_state(state)
        return _prepared(open_corpus(request.data), tokenizer, None)

    def save(self, state: str, folder: Path, spec: ModelSpec) -> None:
        tokenizer_from_state(state).save_folder(folder, spec.context)

    def check_data(self, spec: ModelSpec, data: TokenizedCorpus, settings: Settings) -> None:
        check_vocabulary(spec, data.vocab_size)
        for tokens in (data.train, data.held_out):
            cut_windows(tokens, settings.sequence_length)

    def module(self, spec: ModelSpec, device: torch.device) -> RinscForCausalLM:
        return causal_lm(spec, device=device)

    def examples(self, data: TokenizedCorpus, settings: Settings) -> TrainingWindows:
        length, seed = settings.sequence_length, settings.seed
        return TrainingWindows(data.train, length, seed, settings.packing, data.train_starts)

    def collate(self, examples: Sequence[Window]) -> dict[str, torch.Tensor]:
        """Ids, and targets that are shifted already, (batch, seq)."""
        targets = _stacked([window.targets for window in examples])
        batch = {
            "input_ids": _stacked([window.input_ids for window in examples]),
            "labels": targets,
            "shift_labels": targets,
        }
        positions = [window.position_ids for window in examples]
        if positions[0] is not None:
            batch["position_ids"] = _stacked([row for row in positions if row is not None])
        return batch

    def targets(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return batch["shift_labels"].ne(NO_TARGET).sum()

    def held_out(self, data: TokenizedCorpus, settings: Settings) -> HeldOut:
        return held_out_windows(data, settings.sequence_length)

    def measure(
        self,
        model: nn.Module,
        held_out: HeldOut,
        *,
        rounds: Rounds,
        precision: TrainingPrecision,
        observe: Observe = lambda done, count: None,
    ) -> Evaluation:
        return evaluate(model, held_out, rounds=rounds, precision=precision, observe=observe)

    def measured_on(self, examples: int, part: Part) -> str:
        """``the whole held-out text (512 windows)``."""
        windows = plural(examples, "window", f"{examples:,}")
        return f"{'the whole' if part == 'whole' else 'a sample of the'} held-out text ({windows})"


OBJECTIVE = NextToken()


def check_vocabulary(spec: ModelSpec, tokens: int) -> None:
    """Raises SpecError where a text has more different tokens than the model.

    A model may have more: ids that no text has are never a target, nor generated.
    """
    if tokens > spec.vocab_size:
        message = f"the tokenizer has {plural(tokens, 'token')}, the model {spec.vocab_size}"
        size = setting(f"vocab_size={tokens}", f"--vocab-size {tokens}")
        hint = f"give the model {size}, or use another tokenizer"
        raise SpecError("vocabulary-mismatch", message, hint=hint)


def _tokenizer(corpus: Source, request: Request) -> BytePairTokenizer:
    """The given one, that of the run that this one begins with, or one learned here."""
    if request.tokenizer is not None:
        return load_tokenizer(request.tokenizer, request.begun)
    if request.borrowed is not None:
        borrowed: BytePairTokenizer = request.borrowed()
        return borrowed
    return learned_tokenizer(corpus, request.spec.vocab_size)


def _prepared(
    corpus: Source, tokenizer: BytePairTokenizer, progress: Progress | None
) -> TokenizedCorpus:
    if progress is None:
        return prepare(corpus, tokenizer)
    with PreparationProgress(corpus.name, progress) as preparation:
        return prepare(corpus, tokenizer, progress=preparation)


def _stacked(rows: Sequence[npt.NDArray[Any]]) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows))
