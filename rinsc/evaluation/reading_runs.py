"""The held-out data of runs, read as each of them reads it, and in the same pieces for both."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rinsc.data.batches import TokenizedCorpus
from rinsc.data.cache import prepare
from rinsc.data.corpora import open_corpus
from rinsc.objectives import Part, Request, objective
from rinsc.objectives.next_token import (
    Blocks,
    HeldOut,
    byte_blocks,
    held_out_windows,
    window_blocks,
)
from rinsc.progress import PreparationProgress, Progress
from rinsc.training.finished import FinishedRun, TowersRun
from rinsc.training.heldout import run_data, run_text


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
    if data is None:
        run.require_history()
        opened = run_data(run.folder, spec, config, progress)
    else:
        own = run.folder.tokenizer if isinstance(run, TowersRun) else None
        request = Request(data, spec, own, progress=progress)
        opened = trained_for.open(request, trained_for.prepare(request))
    trained_for.check_data(spec, opened, config)
    whole = trained_for.held_out(opened, config)
    name = str(opened.record["corpus"]["name"])
    return ReadData(name, whole.spread(most), whole.part(most))


def read_text(
    run: FinishedRun, data: str | None, windows: int | None, progress: Progress | None
) -> ReadData:
    """The held-out text of the run, or of the corpus ``data``; each window is a block.

    At most ``windows`` of them, from all over the text. Raises DataError where the run's text or
    tokenizer is another one by now, and what `open_corpus` raises.
    """
    corpus = run_tokens(run, data, progress)
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
    both = (replace(side, blocks=byte_blocks(side.held_out, size)) for side in (ours, theirs))
    return next(both), next(both)


def reads_alike(run: FinishedRun, other: FinishedRun) -> bool:
    """Whether both cut a text into the same windows of the same tokens."""
    same_length = run.sequence_length == other.sequence_length
    return same_length and run.tokenizer().to_json() == other.tokenizer().to_json()


def run_tokens(run: FinishedRun, data: str | None, progress: Progress | None) -> TokenizedCorpus:
    """The text of the run, or the corpus ``data``, in the run's tokens."""
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
