"""What a model of two towers is worth: classes that it was not trained for, and retrieval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rinsc.data.pairs import CaptionTokenizer, HeldOutPairs, PicturePairs
from rinsc.errors import UsageError, require_type, setting
from rinsc.evaluation.classes import (
    TEMPLATES,
    Labelled,
    checked_templates,
    facts_of,
    labelled_pictures,
    prompts,
)
from rinsc.evaluation.embeddings import Embedder
from rinsc.evaluation.matching import (
    Retrieval,
    Share,
    class_rows,
    classified,
    nearest,
    retrieval,
)
from rinsc.evaluation.pairs_page import MOST_PICTURES, PageEntry, write_page
from rinsc.training.finished import FinishedRun, TowersRun

if TYPE_CHECKING:
    from rinsc.data.pairs.decoding import Pixels
    from rinsc.progress import Progress

NEAREST = 3  # captions that the page shows of a picture


@dataclass(frozen=True)
class PairsRequest:
    """What is to be measured: the pictures or names of ``classes``, and whether retrieval is."""

    classes: str | None = None
    templates: tuple[str, ...] = ()
    retrieval: bool = False

    def __bool__(self) -> bool:
        return self.classes is not None or self.retrieval


def pairs_request(
    zero_shot: str | Path | None, templates: Sequence[str], retrieval: bool
) -> PairsRequest:
    """The settings as one value; raises UsageError where they do not fit each other."""
    require_type("zero_shot", zero_shot, (str, Path), "zero_shot='emoji-groups'", optional=True)
    if isinstance(templates, str):
        templates = (templates,)
    if templates and zero_shot is None:
        message = f"{setting('templates', '--template')} is about classes, and none are named"
        hint = f"name them with {setting('zero_shot')}"
        raise UsageError("usage", message, hint=hint)
    name = None if zero_shot is None else str(zero_shot)
    if name == "":
        message = f"{setting('zero_shot')} names no classes"
        raise UsageError("usage", message, hint="name a file, a folder or a set: emoji-groups")
    return PairsRequest(name, checked_templates(tuple(templates)), bool(retrieval))


def require_towers(run: FinishedRun, request: PairsRequest) -> TowersRun:
    """The run, as one that compares; raises UsageError for any other."""
    if isinstance(run, TowersRun):
        return run
    name = setting("zero_shot") if request.classes is not None else setting("retrieval")
    message = f"{name} needs a model that compares pictures with texts, and this run "
    message += f"learned {run.config.objective}"
    hint = 'train one: rinsc train "image: A^2B, text: CD" --data pairs:pictures -o FOLDER'
    raise UsageError("no-pairing", message, place=str(run.path), hint=hint)


@dataclass(frozen=True)
class ChosenPictures:
    """Some pictures of a data set, counted from 0."""

    pairs: PicturePairs
    chosen: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.chosen)

    def pixels(self, index: Any) -> Pixels:
        return self.pairs.pixels(self.chosen[index])


class HeldOutTexts:
    """Held-out pictures, and the distinct texts among their first captions.

    Captions are one text where the tokenizer makes one row of them: ``text_of`` (pictures,) says
    which one each picture has.
    """

    def __init__(self, held_out: HeldOutPairs, tokenizer: CaptionTokenizer) -> None:
        assert held_out.chosen is not None
        self.pictures = ChosenPictures(held_out.pairs, held_out.chosen)
        captions = [held_out.pairs.captions(int(index))[0] for index in held_out.chosen]
        rows = tokenizer.encode(captions)
        _, first, own = np.unique(rows, axis=0, return_index=True, return_inverse=True)
        self.texts = tuple(captions[int(index)] for index in first)
        self.text_of: npt.NDArray[np.int64] = own.reshape(-1).astype(np.int64)

    def __len__(self) -> int:
        return len(self.text_of)

    def retrieval(self, embedder: Embedder, rounds: Mapping[str, int]) -> Retrieval:
        """Recall of these, at some rounds."""
        pictures = embedder.pictures(self.pictures, rounds)
        return retrieval(pictures, embedder.texts(self.texts, rounds), self.text_of)

    def page_entries(self, embedder: Embedder, rounds: Mapping[str, int]) -> list[PageEntry]:
        """Pictures from all over, each with the nearest texts."""
        pictures = embedder.pictures(self.pictures, rounds)
        texts = embedder.texts(self.texts, rounds)
        shown = np.unique(np.linspace(0, len(self) - 1, MOST_PICTURES).astype(np.int64))
        entries = []
        for index in map(int, shown):
            scores = texts @ pictures[index]
            best = nearest(pictures[index], texts, NEAREST)
            entries.append(
                PageEntry(
                    self.pictures.pixels(index),
                    self.pictures.pairs.picture_name(int(self.pictures.chosen[index])),
                    self.texts[int(self.text_of[index])],
                    [(self.texts[text], float(scores[text])) for text in best],
                )
            )
        return entries


def zero_shot(
    embedder: Embedder,
    pictures: Labelled,
    rounds: Mapping[str, int],
    templates: Sequence[str] = TEMPLATES,
) -> Share:
    """How many pictures are told right by the names of their classes, put into templates."""
    texts = embedder.texts(prompts(pictures.classes, templates), rounds)
    classes = class_rows(texts, len(pictures.classes))
    return classified(embedder.pictures(pictures, rounds), pictures.labels, classes)


class Matching:
    """A run of two towers, and what is to be measured of it. All is read before it is measured."""

    def __init__(
        self, run: TowersRun, held_out: HeldOutPairs, request: PairsRequest, progress: Progress
    ) -> None:
        self._run = run
        self.tokenizer = run.caption_tokenizer()
        self.classes: Labelled | None = None
        self.templates: tuple[str, ...] = ()
        if request.classes is not None:
            size = held_out.pairs.image_size
            self.classes, own = labelled_pictures(request.classes, size, held_out.pairs, progress)
            self.templates = request.templates or own or TEMPLATES
        self.texts = HeldOutTexts(held_out, self.tokenizer) if request.retrieval else None

    def embedder(self, module: Any) -> Embedder:
        """For the run's module, in the precision of its training."""
        return Embedder(module, self.tokenizer, self._run.config.precision)

    def at(
        self, embedder: Embedder, rounds: Mapping[str, int]
    ) -> tuple[Share | None, Retrieval | None]:
        """Zero-shot accuracy and recall, as far as they are to be measured."""
        share = None
        if self.classes is not None:
            share = zero_shot(embedder, self.classes, rounds, self.templates)
        recall = None if self.texts is None else self.texts.retrieval(embedder, rounds)
        return share, recall

    @property
    def facts(self) -> Mapping[str, object]:
        """What was measured on, as plain data."""
        values: dict[str, object] = {}
        if self.classes is not None:
            values["zero_shot"] = facts_of(self.classes, self.templates)
        if self.texts is not None:
            values["retrieval"] = {"pictures": len(self.texts), "texts": len(self.texts.texts)}
        return values

    def write_page(
        self, path: Path, embedder: Embedder, rounds: Mapping[str, int], lines: Sequence[str]
    ) -> None:
        """The held-out pictures with their nearest captions, at some rounds."""
        if self.texts is None:
            return
        entries = self.texts.page_entries(embedder, rounds)
        first = sum(entry.rank == 1 for entry in entries)
        count = f"{first} of these {len(entries)} pictures have their own caption first"
        write_page(path, f"{self._run.signature}: nearest captions", [*lines, count], entries)
