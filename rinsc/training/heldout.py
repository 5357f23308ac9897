"""The data of a run as its record names it, with what it never trained on: opened, or a sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rinsc.data.batches import TokenizedCorpus
from rinsc.data.cache import prepare
from rinsc.data.corpora import open_corpus
from rinsc.data.documents import PartTally, Source
from rinsc.data.names import require_named
from rinsc.data.tokenizer import BytePairTokenizer
from rinsc.errors import DataError
from rinsc.objectives import Request, objective
from rinsc.progress import PreparationProgress, Progress
from rinsc.spec import ModelSpec, TowersSpec
from rinsc.storage.files import read_json
from rinsc.training.config import TrainConfig
from rinsc.training.run_folder import RunFolder

SAMPLE_BYTES = 64 * 1024


def held_out_sample(folder: RunFolder) -> str:
    """The first whole lines of a run's held-out text, at most `SAMPLE_BYTES` of UTF-8.

    The corpus is read anew from where the run had it. Raises DataError where it is not there, or
    is another one by now, or has never been named by the user, and MissingExtraError where its
    package is not installed.
    """
    record = corpus_record(folder)
    source = _source(record, folder)
    tally, beginning = PartTally(source.names_documents), ""
    for side, document in source.documents():
        if side == "held_out":
            tally.add(document)
            if len(beginning) <= SAMPLE_BYTES:
                beginning += document.data[: 4 * SAMPLE_BYTES + 4].decode("utf-8", "ignore")
    _require_same({"held_out": tally.record()}, record, folder)
    return first_lines(beginning, SAMPLE_BYTES)


def run_text(
    folder: RunFolder,
    tokenizer: BytePairTokenizer,
    progress: Progress | None = None,
) -> TokenizedCorpus:
    """The text of a run in its tokens, as it was when the run was trained.

    Raises DataError where text or tokenizer are others by now, and MissingExtraError.
    """
    begun = corpus_record(folder)
    source = _source(begun, folder)
    with PreparationProgress(source.name, progress) as preparation:
        corpus = prepare(source, tokenizer, progress=preparation)
    _require_same(dict(corpus.record["corpus"]), begun, folder)  # type: ignore[call-overload]
    return corpus


def run_data(
    folder: RunFolder,
    spec: ModelSpec | TowersSpec,
    config: TrainConfig,
    progress: Progress | None = None,
) -> Any:
    """The data of a run that is no text, as its objective opens it, and as it was in training;
    captions are read with the run's own tokenizer.

    Raises DataError where it is another one by now, or has never been named by the user.
    """
    trained_for, begun = objective(config.objective), corpus_record(folder)
    name = str(begun.get("name"))
    require_named(name, folder.data_record)
    tokenizer = folder.tokenizer if folder.tokenizer.is_file() else None
    request = Request(name, spec, tokenizer, progress=progress)
    opened = trained_for.open(request, trained_for.prepare(request))
    _require_same(dict(opened.record["corpus"]), begun, folder)  # type: ignore[call-overload]
    return opened


def first_lines(text: str, most_bytes: int) -> str:
    """The lines of ``text`` that fit; of a line that is longer than that, the characters that do.

    ``most_bytes`` are counted in UTF-8.
    """
    data = text[: most_bytes + 1].encode("utf-8")  # a character has at least one byte
    if len(data) <= most_bytes:
        return text
    fitting = data[:most_bytes]
    return fitting[: fitting.rfind(b"\n") + 1 or most_bytes].decode("utf-8", "ignore")


def corpus_record(folder: RunFolder) -> Mapping[str, object]:
    """What the run says about its text; raises DataError."""
    try:
        record = read_json(folder.data_record)["corpus"]
    except (OSError, ValueError, TypeError, KeyError):
        record = None
    if not isinstance(record, dict):
        message = "the run does not say which text it was trained on"
        raise _error("no-text", message, folder, "restore its data.json")
    return record


def _source(record: Mapping[str, object], folder: RunFolder) -> Source:
    name = str(record.get("name"))
    require_named(name, folder.data_record)
    try:
        return open_corpus(name)
    except DataError as error:
        hint = f"this is the run's own '{name}', seen from the folder that it was trained in"
        raise DataError.of(*(replace(problem, hint=hint) for problem in error.problems)) from None


def _require_same(
    now: Mapping[str, object], begun: Mapping[str, object], folder: RunFolder
) -> None:
    """Compare the held-out parts, their sha256 among the rest; raises DataError."""
    if now.get("held_out") != begun.get("held_out"):
        message = f"'{begun.get('name')}' is not what it was when the run was trained"
        raise _error("other-text", message, folder, "restore the data")


def _error(code: str, message: str, folder: RunFolder, hint: str) -> DataError:
    return DataError(code, message, place=str(folder.data_record), hint=hint)
