"""Held-out data as runs read it, and what they come to on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from rinsc.backends.torch.memory import allocation_errors
from rinsc.data.batches import TokenizedCorpus
from rinsc.data.cache import prepare
from rinsc.data.corpora import open_corpus
from rinsc.errors import DataError
from rinsc.graph import Rounds
from rinsc.objectives import Observe, Part, Pieces, Quality, Request, objective
from rinsc.objectives.next_token import (
    Blocks,
    HeldOut,
    byte_blocks,
    evaluate_blocks,
    held_out_windows,
    window_blocks,
)
from rinsc.progress import PreparationProgress, Progress
from rinsc.training.finished import FinishedRun
from rinsc.training.heldout import corpus_record, run_text


@dataclass(frozen=True)
class ReadData:
    """Held-out data as a run reads it. Text is in windows of its tokens, and has the ``blocks``
    that these are in; of other data each example is a piece of its own."""

    name: str
    held_out: Any
    part: Part = "whole"
    blocks: Blocks | None = None


def read_data(
    run: FinishedRun, data: str | None, most: int | None, progress: Progress | None
) -> ReadData:
    """The held-out data of the run, or of the data set ``data``: at most so many examples of it,
    from all over.

    Raises DataError where the run's data is another one by now.
    """
    trained_for, config, spec = objective(run.config.objective), run.config, run.graph.spec
    if config.objective == "next_token":
        return read_text(run, data, most, progress)
    name = str(corpus_record(run.folder)["name"]) if data is None else data
    request = Request(name, spec, progress=progress)
    opened = trained_for.open(request, trained_for.prepare(request))
    corpus = opened.record["corpus"]
    if data is None and isinstance(corpus, Mapping) and corpus["held_out"] != run.held_out:
        message = f"'{name}' is not what it was when the run was trained"
        place = str(run.folder.data_record)
        raise DataError("other-text", message, place=place, hint="restore the data")
    trained_for.check_data(spec, opened, config)
    whole = trained_for.held_out(opened, config)
    return ReadData(name, whole.spread(most), whole.part(most))


def read_text(
    run: FinishedRun, data: str | None, windows: int | None, progress: Progress | None
) -> ReadData:
    """The held-out text of the run, or of the corpus ``data``; each window is a block.

    At most ``windows`` of them, from all over the text. Raises DataError where the run's text or
    tokenizer is another one by now, and what `open_corpus` raises.
    """
    corpus = _tokens(run, data, progress)
    whole = held_out_windows(corpus, run.sequence_length)
    held_out = whole.spread(windows)
    return ReadData(_name(corpus), held_out, whole.part(windows), window_blocks(held_out))


def read_pair(
    run: FinishedRun,
    baseline: FinishedRun,
    data: str | None,
    windows: int | None,
    progress: Progress | None,
) -> tuple[ReadData, ReadData]:
    """`read_data` of two runs, in the same pieces.

    Where they read it in other tokens or in windows of another length, blocks are as many bytes as
    the longer windows have on average, and ``windows`` must be None.
    """
    ours = read_data(run, data, windows, progress)
    if run.config.objective != "next_token":
        return ours, read_data(baseline, data, windows, progress)
    if reads_alike(run, baseline):
        return ours, ours
    theirs = read_data(baseline, data, None, progress)
    size = max(_window_bytes(ours.held_out), _window_bytes(theirs.held_out))
    both = (replace(each, blocks=byte_blocks(each.held_out, size)) for each in (ours, theirs))
    return next(both), next(both)


def reads_alike(run: FinishedRun, other: FinishedRun) -> bool:
    """Whether both cut a text into the same windows of the same tokens."""
    same_length = run.sequence_length == other.sequence_length
    return same_length and run.tokenizer().to_json() == other.tokenizer().to_json()


class Measured:
    """The figures of a run on held-out data, computed where they are asked for first."""

    def __init__(
        self, run: FinishedRun, data: ReadData, device: torch.device, observe: Observe
    ) -> None:
        self._run, self._data, self._observe = run, data, observe
        self._model = run.model(device)
        self._at: dict[tuple[tuple[str, int], ...], tuple[Quality, Pieces]] = {}

    @allocation_errors()
    def at(self, rounds: Mapping[str, int]) -> tuple[Quality, Pieces]:
        """In the precision that the run was trained in; raises LoweringError without memory."""
        key = tuple(sorted(rounds.items()))
        if key not in self._at:
            self._at[key] = self._measured(rounds or None)
        return self._at[key]

    def _measured(self, rounds: Rounds) -> tuple[Quality, Pieces]:
        config, data = self._run.config, self._data
        how: Any = {"precision": config.precision, "observe": self._observe, "rounds": rounds}
        if data.blocks is not None:
            return evaluate_blocks(self._model, data.held_out, data.blocks, **how)
        quality = objective(config.objective).measure(self._model, data.held_out, **how)
        assert quality.pieces is not None
        return quality, quality.pieces

    def quality(self, rounds: Mapping[str, int]) -> Quality:
        return self.at(rounds)[0]

    def pieces(self, rounds: Mapping[str, int]) -> Pieces:
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
