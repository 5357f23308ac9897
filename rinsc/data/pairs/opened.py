"""Pairs by name: opened, with decoded pictures, captions, and what is held out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rinsc.data.corpora import added_folder
from rinsc.data.hub import hub_dataset
from rinsc.data.names import (
    HUB_KEYS,
    CorpusName,
    corpora_folder,
    data_error,
    expanded,
    parse_name,
)
from rinsc.data.pairs.decoding import SUFFIXES, Pixels
from rinsc.data.pairs.files import (
    LINE_SUFFIXES,
    METADATA,
    Columns,
    PictureFolder,
    PictureLines,
)
from rinsc.data.pairs.listing import Listing, Skipped, listing_of, require_some
from rinsc.data.pairs.raw import PairSource
from rinsc.data.pairs.sets import PICTURES, TRAINING, chosen_sets, picture_sets
from rinsc.data.pairs.shards import TAR_SUFFIXES, Shards
from rinsc.data.pairs.store import Store, decoded_store, pictures_folder, rows_of
from rinsc.data.pairs.tables import TABLE_SUFFIXES, HubPairs, Tables
from rinsc.data.text_files import find_files
from rinsc.progress import Progress, ShownProgress
from rinsc.storage.files import make_folder

Indices = npt.NDArray[np.int64]
MAX_SIDE = 4096
HUB = "hf:"  # in front of a dataset of the library datasets
SET_COLUMNS = Columns("file_name", "captions", "group")  # of the lines that `rinsc data add` writes
KINDS = {"tar": TAR_SUFFIXES, "table": TABLE_SUFFIXES, "lines": LINE_SUFFIXES}


@dataclass(frozen=True)
class PicturePairs:
    """Pictures and their captions by index; those that cannot be used are gone already.

    ``indices`` (pairs,) are those of the listing; ``rows`` (pairs,) those of the store.
    """

    name: str
    image_size: int
    indices: Indices
    rows: Indices
    skipped: Skipped
    listing: Listing
    store: Store

    def __len__(self) -> int:
        return len(self.indices)

    def picture_name(self, index: int) -> str:
        return self.listing.names[int(self.indices[index])]

    def label(self, index: int) -> str:
        """What the data calls the picture's class; "" where it says nothing."""
        return self.listing.labels[int(self.indices[index])]

    def captions(self, index: int) -> tuple[str, ...]:
        """The captions of a picture, as they were written; at least one."""
        return tuple(self.listing.captions[caption] for caption in self.caption_range(index))

    def caption_range(self, index: int) -> range:
        """Which captions of the listing are those of a picture."""
        return self.listing.caption_range(int(self.indices[index]))

    def pixels(self, index: int | Indices) -> Pixels:
        """A picture (3, side, side), or several (count, 3, side, side), from 0 to 255."""
        return np.array(self.store.pixels[self.rows[index]])

    @cached_property
    def is_held_out(self) -> npt.NDArray[np.bool_]:
        held: npt.NDArray[np.bool_] = self.listing.held_out[self.indices]
        return held

    @property
    def train(self) -> Indices:
        """The pictures to train on, by index."""
        return np.flatnonzero(~self.is_held_out)

    @property
    def held_out(self) -> Indices:
        return np.flatnonzero(self.is_held_out)

    @property
    def record(self) -> Mapping[str, Any]:
        """What a run writes down of its data."""
        return {
            "corpus": {
                "name": self.name,
                "image_size": self.image_size,
                "train": {"pictures": len(self.train)},
                "held_out": {"pictures": len(self.held_out)},
                "left_out": self.skipped.count,
                "sha256": self.listing.sha256,
            }
        }


def open_pairs(name: str, image_size: int, *, progress: Progress | None = None) -> PicturePairs:
    """The pairs that ``pairs:PATH`` names, with pictures squashed to ``image_size``.

    Pictures are decoded once, into the data folder. Those that cannot be used are left out and
    told of by a note. Raises DataError for a name that stands for nothing, or for too few pictures.
    """
    progress = progress or ShownProgress()
    if not 1 <= image_size <= MAX_SIDE:
        message = f"pictures of {image_size} x {image_size} are not made"
        raise data_error("bad-option", message, name, f"choose from 1 to {MAX_SIDE}")
    pairs = decoded_pairs(pair_source(name), name, image_size, progress)
    if not len(pairs.train) or not len(pairs.held_out):
        kind = "train on" if len(pairs.held_out) else "hold out"
        skipped = pairs.skipped
        message = f"there is no picture to {kind}{'; ' if skipped.count else ''}{skipped.line}"
        raise data_error("too-few-pictures", message, name, "give more pictures with captions")
    return pairs


def decoded_pairs(
    source: PairSource, name: str, image_size: int, progress: Progress
) -> PicturePairs:
    """The pairs of a source, all of which may be on one side; raises DataError."""
    listing = listing_of(source, make_folder(pictures_folder()), progress)
    require_some(listing, name)
    rows = rows_of(listing)
    store = decoded_store(source, listing, rows, image_size, progress)
    usable = np.flatnonzero(~store.damaged[rows])
    skipped = listing.skipped + _undecoded(listing, rows, store)
    if skipped.count:
        progress.note(skipped.line)
    return PicturePairs(name, image_size, usable, rows[usable], skipped, listing, store)


def _undecoded(listing: Listing, rows: Indices, store: Store) -> Skipped:
    damaged = np.flatnonzero(store.damaged[rows]).tolist()
    examples = tuple(
        (listing.names[index], store.problems[int(rows[index])]) for index in damaged[:100]
    )
    return Skipped(len(damaged), examples)


def pair_source(name: str) -> PairSource:
    """The source that a name stands for; raises DataError."""
    named = parse_name(name, ())
    if named.kind != "pairs":
        message = f"'{name:.60}' is no set of pictures with captions"
        raise data_error("unknown-corpus", message, None, "write pairs:PATH, or pairs:pictures")
    columns = Columns(named.options.get("image"), named.options.get("caption"))
    root = named.options.get("root")
    return _source(named, columns, None if root is None else expanded(root))


def _source(named: CorpusName, columns: Columns, root: Path | None) -> PairSource:
    if named.where == PICTURES or named.where in picture_sets():
        return PictureLines(added_lines(named.where), None, SET_COLUMNS)
    if named.where.startswith(HUB):
        hub = CorpusName(named.text, "hf", named.where.removeprefix(HUB), named.options)
        return HubPairs(hub_dataset(hub), root, columns)
    if other := [key for key in HUB_KEYS if key in named.options]:
        message = f"'{other[0]}' is an option of pairs:hf:NAME alone"
        raise data_error("bad-option", message, named.text, "leave it out")
    path = expanded(named.where)
    files = find_files(str(path), ("",))
    if path.is_dir():
        return _of_folder(path, files, columns, root)
    for kind, suffixes in KINDS.items():
        if all(name.lower().endswith(suffixes) for name in files):
            return _of_files(kind, files, columns, root)
    message = "these are neither lines, tables nor shards of pictures"
    endings = ", ".join(ending for suffixes in KINDS.values() for ending in suffixes)
    hint = f"name a folder, or files that end with {endings}"
    raise data_error("unknown-format", message, path, hint)


def added_lines(name: str, file: str = TRAINING) -> dict[str, Path]:
    """The lines of the sets that were added: of one, or of all that are trained on.

    Raises DataError where there are none.
    """
    sets = chosen_sets(name)
    used = [one for one in sets if name != PICTURES or one.use == "train" or file != TRAINING]
    paths = {one.name: added_folder(one.name) / file for one in used}
    added = {name: path for name, path in paths.items() if path.is_file()}
    if not added:
        message = f"the pictures '{name}' are not here yet"
        raise data_error("corpus-not-added", message, corpora_folder(), f"rinsc data add {name}")
    return added


def _of_folder(
    folder: Path, files: dict[str, Path], columns: Columns, root: Path | None
) -> PairSource:
    """Loose pictures where there are any, else shards, tables or lines."""
    names = {name.rpartition("/")[2].lower() for name in files}
    loose = any(name.endswith(SUFFIXES) for name in names)
    if loose or names & set(METADATA):
        used = (*SUFFIXES, ".txt", *METADATA)
        chosen = {name: path for name, path in files.items() if name.lower().endswith(used)}
        return PictureFolder(folder, chosen, root or folder, columns)
    for kind, suffixes in KINDS.items():
        chosen = {name: path for name, path in files.items() if name.lower().endswith(suffixes)}
        if chosen:
            return _of_files(kind, chosen, columns, root)
    message = "no pictures in this folder, nor files that hold or name some"
    hint = "name a folder of pictures with captions; see docs/data.md"
    raise data_error("no-pictures", message, folder, hint)


def _of_files(kind: str, files: dict[str, Path], columns: Columns, root: Path | None) -> PairSource:
    if kind == "tar":
        return Shards(files, columns)
    if kind == "table":
        return Tables(files, root, columns)
    return PictureLines(files, root, columns)
