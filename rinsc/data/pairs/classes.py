"""Pictures with a class each, for zero-shot classification; nothing here is trained on.

emoji-groups      the held-out style, by group: animals & nature, food & drink, …
emoji-subgroups   the same, by subgroup: animal mammal, food fruit, …
emoji-names       the same, by name, of what the sets that are trained on show, too
emoji-unseen      concepts that were never trained on, in every style
PATH              a folder with a folder of pictures a class, or .jsonl with "image" and "label"
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from rinsc.data.names import data_error, expanded
from rinsc.data.pairs.captions import canonical
from rinsc.data.pairs.decoding import SUFFIXES, BadPictureError, Pixels
from rinsc.data.pairs.files import Columns, PictureLines
from rinsc.data.pairs.opened import SET_COLUMNS, Indices, PicturePairs, added_lines, decoded_pairs
from rinsc.data.pairs.raw import LABEL_NAME, Located, PairSource, RawPair
from rinsc.data.pairs.sets import PICTURES, TRAINING, UNSEEN, picture_sets
from rinsc.data.text_files import file_facts, find_files
from rinsc.errors import DataError, did_you_mean
from rinsc.progress import Progress, ShownProgress
from rinsc.storage.files import parse_json


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures of ``classes``, in words; ``labels`` (pictures,) are places in them."""

    name: str
    classes: tuple[str, ...]
    labels: Indices
    pairs: PicturePairs
    chosen: Indices

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, index: int | Indices) -> Pixels:
        """A picture (3, side, side), or several (count, 3, side, side), from 0 to 255."""
        return self.pairs.pixels(self.chosen[index])

    def picture_name(self, index: int) -> str:
        return self.pairs.picture_name(int(self.chosen[index]))


# The column that has the class, and the lines of which sets.
EMOJI: Mapping[str, tuple[str, str]] = {
    "emoji-groups": ("group", TRAINING),
    "emoji-subgroups": ("subgroup", TRAINING),
    "emoji-names": ("name", TRAINING),
    "emoji-unseen": ("name", UNSEEN),
}


def open_classes(
    name: str, image_size: int, *, progress: Progress | None = None
) -> LabelledPictures:
    """The labelled pictures of a name, squashed to ``image_size``; raises DataError."""
    source, known = _source(name)
    pairs = decoded_pairs(source, name, image_size, progress or ShownProgress())
    labels = [pairs.label(index) for index in range(len(pairs))]
    classes = sorted({label for label in labels if label and (known is None or label in known)})
    places = {label: place for place, label in enumerate(classes)}
    chosen = np.array([i for i, label in enumerate(labels) if label in places], dtype=np.int64)
    if len(classes) < 2:
        message = "there are fewer than two classes to tell apart"
        raise data_error("too-few-classes", message, name, "give pictures of several classes")
    numbers = np.array([places[labels[index]] for index in chosen], dtype=np.int64)
    return LabelledPictures(name, tuple(classes), numbers, pairs, chosen)


def _source(name: str) -> tuple[PairSource, frozenset[str] | None]:
    """The source of a name, and the classes that count; None where all do."""
    if name in EMOJI:
        column, file = EMOJI[name]
        styles = [one.name for one in picture_sets().values() if one.use == "style"]
        wanted = [PICTURES] if file == UNSEEN else styles
        files = {key: path for one in wanted for key, path in added_lines(one, file).items()}
        columns = Columns(SET_COLUMNS.image, SET_COLUMNS.caption, column)
        return PictureLines(files, None, columns), _trained() if name == "emoji-names" else None
    path = expanded(name)
    if path.is_dir():
        return ClassFolders(path, find_files(name, SUFFIXES)), None
    if path.is_file():
        return PictureLines({path.name: path}, None, Columns(None, LABEL_NAME)), None
    hint = did_you_mean(name, EMOJI) or f"use one of {', '.join(EMOJI)}, or a path"
    raise data_error("unknown-classes", f"'{name:.80}' is no set of classes", None, hint)


def _trained() -> frozenset[str] | None:
    """The names in the sets that are trained on; None where there are no such sets here."""
    try:
        paths = added_lines(PICTURES).values()
    except DataError:
        return None
    rows = [parse_json(line) for path in paths for line in path.read_bytes().splitlines()]
    return frozenset(row["name"] for row in rows if "name" in row)


@dataclass(frozen=True)
class ClassFolders:
    """A `PairSource` of a folder of folders; each bears the name of a class."""

    folder: Path
    files: dict[str, Path]

    def identity(self) -> Mapping[str, object]:
        return {"kind": "classes", "files": file_facts(self.files)}

    def pairs(self) -> Iterator[RawPair]:
        located = Located(self.folder)
        for name in self.files:
            folder = PurePosixPath(name).parts[0] if "/" in name else ""
            label = folder.replace("_", " ")
            try:
                if not canonical(label):
                    raise BadPictureError("it stands in no folder of a class")
                yield RawPair(name, (label,), located.file(self.folder, name), label=label)
            except BadPictureError as error:
                yield RawPair(name, problem=str(error))
