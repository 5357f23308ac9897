"""What a set of pairs holds: names, captions, digests of the pictures, and who is held out.

It is made once for the same files, and read from arrays that are mapped into memory.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import numpy.typing as npt

from rinsc.data.documents import part_of
from rinsc.data.names import data_error
from rinsc.data.pairs.captions import canonical
from rinsc.data.pairs.decoding import BadPictureError
from rinsc.data.pairs.raw import PairSource, RawPair
from rinsc.data.sealed import file_records, mapped_arrays, note_use, valid_record, write_record
from rinsc.errors import plural
from rinsc.progress import Progress
from rinsc.storage.files import short_digest
from rinsc.storage.folders import folder_aside, one_process

FORMAT = 1  # raised whenever the same files would give another listing
TEXTS = ("names", "captions", "labels")
ARRAYS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(TEXTS, ("|u1",)),
    **{f"{name}_ends": ("<i8",) for name in TEXTS},
    "last_captions": ("<i8",),
    "digests": ("|u1",),
    "held_out": ("|u1",),
}
SHOWN_PROBLEMS = 5
MAX_SHOWN_NAME = 200  # characters
KEPT_PROBLEMS = 1000  # in a record; all are counted
AT_ONCE_PER_WORKER = 8

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Skipped:
    """Pictures that were left out: how many, and the first ones with what is wrong."""

    count: int = 0
    examples: tuple[tuple[str, str], ...] = ()

    def __add__(self, other: Skipped) -> Skipped:
        examples = (*self.examples, *other.examples)[:KEPT_PROBLEMS]
        return Skipped(self.count + other.count, examples)

    @property
    def line(self) -> str:
        """For a user; "" where nothing was left out.

        >>> Skipped(2, (("a.png", "its file is empty"), ("b.png", "it has no caption"))).line
        '2 pictures were left out: a.png (its file is empty), b.png (it has no caption)'
        """
        if not self.count:
            return ""
        shown = [f"{name} ({problem})" for name, problem in self.examples[:SHOWN_PROBLEMS]]
        more = f", and {self.count - len(shown)} more" if self.count > len(shown) else ""
        verb = "was" if self.count == 1 else "were"
        return f"{plural(self.count, 'picture')} {verb} left out: {', '.join(shown)}{more}"


class Texts:
    """Many short texts in one array of bytes (bytes,), with the end of each (texts,)."""

    def __init__(self, data: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> None:
        self._data, self._ends = data, ends

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, index: int) -> str:
        start = int(self._ends[index - 1]) if index else 0
        return self._data[start : int(self._ends[index])].tobytes().decode("utf-8")


@dataclass(frozen=True)
class Listing:
    """Pairs by index: ``last_captions`` (pairs,) is where the captions of each end; ``digests``
    (pairs, 32) are of the pictures' files; ``held_out`` (pairs,)."""

    names: Texts
    captions: Texts
    labels: Texts
    last_captions: npt.NDArray[np.int64]
    digests: npt.NDArray[np.uint8]
    held_out: npt.NDArray[np.bool_]
    skipped: Skipped
    sha256: str

    def __len__(self) -> int:
        return len(self.last_captions)

    def caption_range(self, index: int) -> range:
        """Which captions are those of a pair."""
        return range(int(self.last_captions[index - 1]) if index else 0, self.last_captions[index])

    @property
    def picture_key(self) -> str:
        """A digest of all pictures in their order."""
        return hashlib.sha256(np.ascontiguousarray(self.digests).data).hexdigest()


def listing_of(source: PairSource, folder: Path, progress: Progress) -> Listing:
    """The listing of a source, made below ``folder`` where it is not there; raises DataError."""
    facts = {"format": FORMAT, "source": dict(source.identity())}
    entry = folder / f"listing-{short_digest(json.dumps(facts, sort_keys=True))}"
    record = valid_record(entry, ARRAYS)
    if record is None:
        with one_process(entry):
            record = valid_record(entry, ARRAYS) or _made(entry, source, progress)
    note_use(entry)  # before room is made
    return _opened(entry, record)


def _made(entry: Path, source: PairSource, progress: Progress) -> dict[str, Any]:
    with folder_aside(entry) as part, progress.task("reading pictures") as observe:
        with closing(_Writer(part)) as writer, ThreadPoolExecutor() as pool:
            for pair, digest in mapped_ahead(pool, _digested, source.pairs()):
                writer.add(pair, digest)
                observe(None, f"{writer.count:,} pictures read")
            record = writer.finish()
        write_record(part, record)
    return record


def mapped_ahead(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterator[Item]
) -> Iterator[Result]:
    """``work`` of each item, in their order, some items ahead; no more are in memory."""
    waiting: list[Future[Result]] = []
    most = AT_ONCE_PER_WORKER * pool._max_workers
    try:
        waiting += [pool.submit(work, item) for item in islice(items, most)]
        while waiting:
            yield waiting.pop(0).result()
            waiting += [pool.submit(work, item) for item in islice(items, 1)]
    finally:
        for future in waiting:
            future.cancel()


def _digested(pair: RawPair) -> tuple[RawPair, bytes]:
    """The pair without its data, and the SHA-256 of its picture's file."""
    bare = RawPair(pair.name, pair.captions, b"", pair.problem, pair.part, pair.label)
    if pair.problem:
        return bare, b""
    try:
        digest = hashlib.sha256(pair.read()).digest()
    except BadPictureError as error:
        return RawPair(pair.name, problem=str(error)), b""
    return bare, digest


@dataclass
class _Writer:
    """Appends pairs to the arrays of a folder."""

    folder: Path
    count: int = 0
    skipped: Skipped = field(default_factory=Skipped)

    def __post_init__(self) -> None:
        self._files: dict[str, BinaryIO] = {
            name: (self.folder / name).open("wb") for name in (*TEXTS, "digests")
        }
        self._ends = {name: array("q") for name in TEXTS}
        self._last_captions = array("q")
        self._digests: list[bytes] = []
        self._parts: list[str | None] = []
        self._hash = hashlib.sha256()

    def add(self, pair: RawPair, digest: bytes) -> None:
        captions = [caption for caption in pair.captions if canonical(caption)]
        if not pair.problem and not captions:
            pair = RawPair(pair.name, problem="its caption holds no word")
        if pair.problem:
            self.skipped += Skipped(1, ((pair.name[:MAX_SHOWN_NAME], pair.problem),))
            return
        self._text("names", pair.name)
        self._text("labels", pair.label)
        for caption in captions:
            self._text("captions", caption)
        self._last_captions.append(len(self._ends["captions"]))
        self._files["digests"].write(digest)
        self._digests.append(digest)
        self._parts.append(pair.part)
        line = json.dumps([pair.name, captions, pair.label, digest.hex()])
        self._hash.update(line.encode("utf-8"))
        self.count += 1

    def _text(self, name: str, text: str) -> None:
        data = text.encode("utf-8", "replace")
        self._files[name].write(data)
        ends = self._ends[name]
        ends.append((ends[-1] if ends else 0) + len(data))

    def finish(self) -> dict[str, Any]:
        self.close()
        held_out = _held_out(self._digests, self._parts)
        arrays = {
            **{f"{name}_ends": np.array(ends, dtype="<i8") for name, ends in self._ends.items()},
            "last_captions": np.array(self._last_captions, dtype="<i8"),
            "held_out": held_out.astype(np.uint8),
        }
        for name, values in arrays.items():
            (self.folder / name).write_bytes(values.tobytes())
        types = {name: kinds[0] for name, kinds in ARRAYS.items()}
        return {
            "sha256": self._hash.hexdigest(),
            "skipped": [self.skipped.count, list(self.skipped.examples)],
            "files": file_records(self.folder, types),
        }

    def close(self) -> None:
        for file in self._files.values():
            file.close()


def _held_out(digests: list[bytes], parts: list[str | None]) -> npt.NDArray[np.bool_]:
    """Who is held out (pairs,): as the source says, else by the hash of the picture.

    Copies of a picture are on one side.
    """
    said = {digest for digest, part in zip(digests, parts, strict=True) if part == "held_out"}
    anything_said = any(part is not None for part in parts)
    held = np.array(
        [
            digest in said or (part is None and not said and part_of(digest) == "held_out")
            for digest, part in zip(digests, parts, strict=True)
        ],
        dtype=np.bool_,
    )
    if not held.any() and digests and not anything_said:
        lowest = min(digests)
        held = np.array([digest == lowest for digest in digests], dtype=np.bool_)
    return held


def _opened(entry: Path, record: Mapping[str, Any]) -> Listing:
    arrays = mapped_arrays(entry, record)
    texts = {name: Texts(arrays[name], arrays[f"{name}_ends"]) for name in TEXTS}
    count, examples = record["skipped"]
    return Listing(
        **texts,
        last_captions=arrays["last_captions"],
        digests=arrays["digests"].reshape(-1, 32),
        held_out=arrays["held_out"].astype(np.bool_),
        skipped=Skipped(count, tuple((name, problem) for name, problem in examples)),
        sha256=record["sha256"],
    )


def require_some(listing: Listing, name: str) -> None:
    """Raises DataError where no pair is left, or all are alike."""
    if len(listing) and (listing.digests != listing.digests[0]).any():
        return
    problems = Counter(problem for _, problem in listing.skipped.examples).most_common(1)
    why = f"; {listing.skipped.line}" if problems else ""
    message = f"{plural(len(listing), 'picture')} with a caption: too few to train on{why}"
    hint = "captions stand in NAME.txt beside NAME.png, or in metadata.jsonl; see docs/data.md"
    raise data_error("too-few-pictures", message, name, hint)
