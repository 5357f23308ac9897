"""A finished run on held-out text: its text in blocks, and its losses at any rounds, once each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from rinsc.backends.torch.memory import allocation_errors
from rinsc.data.batches import TokenizedCorpus
from rinsc.data.cache import prepare
from rinsc.data.corpora import open_corpus
from rinsc.objectives import Observe, Part
from rinsc.objectives.next_token import (
    BlockLosses,
    Blocks,
    Evaluation,
    HeldOut,
    byte_blocks,
    evaluate_blocks,
    held_out_windows,
    window_blocks,
)
from rinsc.progress import PreparationProgress, Progress
from rinsc.training.finished import FinishedRun
from rinsc.training.heldout import run_text


@dataclass(frozen=True)
class ReadText:
    """Held-out text as a run reads it: windows of its tokens, and the blocks that they are in."""

    name: str
    held_out: HeldOut
    blocks: Blocks
    part: Part = "whole"


def read_text(
    run: FinishedRun, data: str | None, windows: int | None, progress: Progress | None
) -> ReadText:
    """The held-out text of the run, or of the corpus ``data``; each window is a block.

    At most ``windows`` of them, from all over the text. Raises DataError where the run's text or
    tokenizer is another one by now, and what `open_corpus` raises.
    """
    corpus = _tokens(run, data, progress)
    whole = held_out_windows(corpus, run.sequence_length)
    held_out = whole.spread(windows)
    return ReadText(_name(corpus), held_out, window_blocks(held_out), whole.part(windows))


def read_pair(
    run: FinishedRun,
    baseline: FinishedRun,
    data: str | None,
    windows: int | None,
    progress: Progress | None,
) -> tuple[ReadText, ReadText]:
    """`read_text` of two runs, in the same blocks of the text.

    Where they read it in other tokens or in windows of another length, blocks are as many bytes as
    the longer windows have on average, and ``windows`` must be None.
    """
    ours = read_text(run, data, windows, progress)
    if reads_alike(run, baseline):
        return ours, ours
    theirs = read_text(baseline, data, None, progress)
    size = max(_window_bytes(ours.held_out), _window_bytes(theirs.held_out))
    both = (
        ReadText(each.name, each.held_out, byte_blocks(each.held_out, size))
        for each in (ours, theirs)
    )
    return next(both), next(both)


def reads_alike(run: FinishedRun, other: FinishedRun) -> bool:
    """Whether both cut a text into the same windows of the same tokens."""
    same_length = run.sequence_length == other.sequence_length
    return same_length and run.tokenizer().to_json() == other.tokenizer().to_json()


class Measured:
    """The losses of a run on a text, computed where they are asked for first."""

    def __init__(
        self, run: FinishedRun, text: ReadText, device: torch.device, observe: Observe
    ) -> None:
        self._run, self._text, self._observe = run, text, observe
        self._model = run.model(device)
        self._found: dict[tuple[tuple[str, int], ...], tuple[Evaluation, BlockLosses]] = {}

    @allocation_errors()
    def at(self, rounds: Mapping[str, int]) -> tuple[Evaluation, BlockLosses]:
        """In the precision that the run was trained in; raises LoweringError without memory."""
        key = tuple(sorted(rounds.items()))
        if key not in self._found:
            self._found[key] = evaluate_blocks(
                *(self._model, self._text.held_out, self._text.blocks),
                rounds=rounds or None,
                precision=self._run.config.precision,
                observe=self._observe,
            )
        return self._found[key]

    def quality(self, rounds: Mapping[str, int]) -> Evaluation:
        return self.at(rounds)[0]

    def losses(self, rounds: Mapping[str, int]) -> BlockLosses:
        return self.at(rounds)[1]


def _tokens(run: FinishedRun, data: str | None, progress: Progress | None) -> TokenizedCorpus:
    tokenizer = run.tokenizer()
    if data is None:
        run.require_history()
        return run_text(run.folder, tokenizer, progress)
    source = open_corpus(data)
    with PreparationProgress(source.name, progress) as preparation:
        return prepare(source, tokenizer, progress=preparation)


def _name(corpus: TokenizedCorpus) -> str:
    return str(dict(corpus.record["corpus"])["name"])  # type: ignore[call-overload]


def _window_bytes(held_out: HeldOut) -> int:
    return max(1, held_out.predicted_bytes // len(held_out.windows))
