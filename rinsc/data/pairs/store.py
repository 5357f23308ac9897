"""The cache of decoded pictures: one file of numbers, mapped into memory by every process.

It is found again by the content of the pictures and the size, whatever their files are called, and
is whole or not there. The sets used longest ago go where all together become too large.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rinsc.data.names import data_error, data_folder
from rinsc.data.pairs.decoding import BadPictureError, Pixels, decoded, decoding
from rinsc.data.pairs.listing import Listing, mapped_ahead
from rinsc.data.pairs.raw import PairSource, RawPair
from rinsc.data.sealed import (
    RECORD,
    file_records,
    mapped_arrays,
    note_use,
    valid_record,
    write_record,
)
from rinsc.progress import Progress
from rinsc.storage.files import is_held, short_digest
from rinsc.storage.folders import folder_aside, one_process

FORMAT = 1  # raised whenever the same pictures would give other numbers
VARIABLE = "RINSC_PICTURE_CACHE"  # bytes that all sets together may take
MOST_BYTES = 50_000_000_000
ARRAYS: Mapping[str, tuple[str, ...]] = {"pixels": ("|u1",), "damaged": ("|u1",)}
SPARE_BYTES = 1 << 28  # that stay free on the disk


@dataclass(frozen=True)
class Store:
    """Decoded pictures (rows, 3, side, side), and what is wrong with those that are not."""

    pixels: Pixels
    damaged: npt.NDArray[np.bool_]
    problems: Mapping[int, str]


def pictures_folder() -> Path:
    """Where listings and decoded pictures lie."""
    return data_folder() / "pictures"


def rows_of(listing: Listing) -> npt.NDArray[np.int64]:
    """The row of each pair's picture (pairs,): one row for equal pictures, by first appearance."""
    rows: dict[bytes, int] = {}
    return np.array(
        [rows.setdefault(digest.tobytes(), len(rows)) for digest in listing.digests], dtype=np.int64
    )


def decoded_store(
    source: PairSource, listing: Listing, rows: npt.NDArray[np.int64], side: int, progress: Progress
) -> Store:
    """Every distinct picture of a listing, decoded where that was not done; raises DataError."""
    _, first = np.unique(rows, return_index=True)
    digests = np.ascontiguousarray(listing.digests[first])
    key = short_digest(f"{FORMAT} {hashlib.sha256(digests.data).hexdigest()}")
    entry = pictures_folder() / f"pixels-{key}-{side}"
    record, arrays = None, None
    with suppress(FileNotFoundError):  # another process makes room meanwhile
        record = valid_record(entry, ARRAYS)
        arrays = None if record is None else mapped_arrays(entry, record)
    if record is None or arrays is None:
        with one_process(entry, lambda: progress.line("another process decodes them; waiting")):
            record = valid_record(entry, ARRAYS)
            if record is None:
                make_room(len(digests) * 3 * side * side, entry)
                record = _made(entry, source, digests, side, progress)
            arrays = mapped_arrays(entry, record)
    note_use(entry)
    problems = {int(row): problem for row, problem in record["problems"].items()}
    pixels = arrays["pixels"].reshape(-1, 3, side, side)
    return Store(pixels, arrays["damaged"].astype(np.bool_), problems)


def _made(
    entry: Path, source: PairSource, digests: Pixels, side: int, progress: Progress
) -> dict[str, Any]:
    rows = {digest.tobytes(): row for row, digest in enumerate(digests)}
    problems = dict.fromkeys(range(len(digests)), "its file changed while it was read")
    with folder_aside(entry) as part, progress.task("decoding pictures") as observe:
        shape = (len(digests), 3, side, side)
        pixels = np.memmap(part / "pixels", dtype=np.uint8, mode="w+", shape=shape)
        with decoding(), ThreadPoolExecutor() as pool:
            done = 0
            work = _Decoding(rows, pixels, side).of
            for row, problem in mapped_ahead(pool, work, _usable(source)):
                if row is None:
                    continue
                done += 1
                del problems[row]
                if problem:
                    problems[row] = problem
                observe(done / len(digests), f"{done:,} of {len(digests):,} pictures decoded")
        pixels.flush()
        del pixels
        damaged = np.isin(np.arange(len(digests)), list(problems)).astype(np.uint8)
        (part / "damaged").write_bytes(damaged.tobytes())
        types = {name: kinds[0] for name, kinds in ARRAYS.items()}
        record = {
            "problems": {str(row): problem for row, problem in problems.items()},
            "files": file_records(part, types),
        }
        write_record(part, record)
    return record


def _usable(source: PairSource) -> Iterator[RawPair]:
    return (pair for pair in source.pairs() if not pair.problem)


@dataclass(frozen=True)
class _Decoding:
    """Puts pictures into their rows; each row is done once, by whichever thread comes first."""

    rows: dict[bytes, int]
    pixels: Pixels
    side: int

    def of(self, pair: RawPair) -> tuple[int | None, str]:
        """The row that was done, None where there was nothing to do, and what was wrong."""
        try:
            data = pair.read()
        except BadPictureError:
            return None, ""  # its row says that its file has changed
        row = self.rows.pop(hashlib.sha256(data).digest(), None)
        if row is None:
            return None, ""
        try:
            self.pixels[row] = decoded(data, self.side)
        except BadPictureError as error:
            return row, str(error)
        return row, ""


def make_room(needed: int, entry: Path) -> None:
    """Remove the sets used longest ago until ``needed`` more bytes keep the limit.

    What another process has mapped stays readable for it. Raises DataError where the disk is full.
    """
    limit = most_bytes()
    for left in entry.parent.glob(".*.part"):  # by killed commands
        if not is_held(left):
            shutil.rmtree(left, ignore_errors=True)
    listings = entry.parent.glob("listing-*")
    folders = sorted([*entry.parent.glob("pixels-*"), *listings], key=_last_use)
    sizes = {folder: _size(folder) for folder in folders if folder != entry}
    for folder in folders:
        if sum(sizes.values()) + needed <= limit:
            break
        if folder in sizes:
            shutil.rmtree(folder, ignore_errors=True)
            del sizes[folder]
    free = shutil.disk_usage(entry.parent).free
    if needed + SPARE_BYTES > free:
        message = f"the decoded pictures take {needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free"
        hint = "use smaller or fewer pictures, or a data folder elsewhere: RINSC_DATA=FOLDER"
        raise data_error("no-room", message, entry.parent, hint)


def most_bytes() -> int:
    """`MOST_BYTES`, or what the user says; raises DataError for what is no count."""
    text = os.environ.get(VARIABLE)
    if not text:
        return MOST_BYTES
    try:
        return int(float(text.replace("_", "")))
    except (ValueError, OverflowError):
        hint = "write a count such as 20e9, or leave it out"
        raise data_error(
            "bad-option", f"{text!r:.40} is no count of bytes", VARIABLE, hint
        ) from None


def _last_use(folder: Path) -> float:
    try:
        return (folder / RECORD).stat().st_mtime
    except OSError:
        return 0.0


def _size(folder: Path) -> int:
    with suppress(OSError):
        return sum(path.stat().st_size for path in folder.iterdir())
    return 0
