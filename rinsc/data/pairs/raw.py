"""Pictures and captions as they come out of files, before anything is decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rinsc.data.documents import Part
from rinsc.data.names import data_error
from rinsc.data.pairs.decoding import MAX_FILE_BYTES, BadPictureError
from rinsc.errors import nearest

# Columns, fields and parts of a shard by what they are mostly called; the first that is there.
IMAGE_NAMES = (
    *("image", "picture", "img", "file_name", "filename", "path", "image_path", "filepath"),
    *("png", "jpg", "jpeg", "webp"),
)
CAPTION_NAMES = (
    *("caption", "captions", "text", "texts", "sentences", "sentence", "alt_text", "alt"),
    *("title", "description", "prompt", "txt"),
)
SPLIT_NAME, LABEL_NAME = "split", "label"
MAX_CAPTION_BYTES = 1 << 16  # of one caption; a text tower reads some dozens of tokens


@dataclass(frozen=True)
class RawPair:
    """A picture, in memory or as a file, and its captions; or why it cannot be used.

    ``part`` is None where nothing says it.
    """

    name: str
    captions: tuple[str, ...] = ()
    data: bytes | Path = b""
    problem: str = ""
    part: Part | None = None
    label: str = ""

    def read(self) -> bytes:
        """The bytes of the picture's file; raises `BadPictureError`."""
        if isinstance(self.data, bytes):
            return self.data
        try:
            return self.data.read_bytes()
        except OSError as error:
            raise BadPictureError(
                f"cannot read: {error.strerror or type(error).__name__}"
            ) from None


class PairSource(Protocol):
    """Where pictures with captions come from; it can be read as often as is wanted."""

    def identity(self) -> Mapping[str, object]:
        """What the pairs depend on, as JSON, without decoding them. Raises DataError."""

    def pairs(self) -> Iterator[RawPair]:
        """Every pair in its order, also those that cannot be used. Raises DataError."""


class Located:
    """Finds pictures below a folder, and nothing outside of it."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._real_root = os.path.realpath(root)
        self._folders: dict[str, bool] = {}

    def file(self, base: Path, name: str, *, is_picture: bool = True) -> Path:
        """The file that ``name`` means in the folder ``base``; raises `BadPictureError`."""
        if "://" in name:
            raise BadPictureError("it is an address; pictures are not fetched")
        if not name.strip() or "\0" in name:
            raise BadPictureError("it has no file name")
        path = base / name
        try:
            if path.is_symlink() or ".." in path.parts:
                inside = self._is_inside(os.path.realpath(path))
            else:
                inside = self._folder_is_inside(str(path.parent))
            if not inside:
                raise BadPictureError(f"it lies outside of {self._root}; ?root=FOLDER allows it")
            if not path.is_file():
                raise BadPictureError("there is no such file")
            if is_picture:
                require_bytes(path.stat().st_size)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise BadPictureError(f"cannot read: {reason:.100}") from None
        return path

    def _folder_is_inside(self, folder: str) -> bool:
        known = self._folders.get(folder)
        if known is None:
            known = self._folders[folder] = self._is_inside(os.path.realpath(folder))
        return known

    def _is_inside(self, real: str) -> bool:
        return real == self._real_root or real.startswith(self._real_root.rstrip(os.sep) + os.sep)


def require_bytes(size: int) -> None:
    """Raises `BadPictureError` for a file that is larger than any picture."""
    if size > MAX_FILE_BYTES:
        raise BadPictureError(f"its file has {size:,} bytes; at most {MAX_FILE_BYTES:,} are read")
    if size == 0:
        raise BadPictureError("its file is empty")


def captions_of(value: object) -> tuple[str, ...]:
    """A caption or several, without blank ones; raises `BadPictureError` where none is left."""
    if value is None:
        raise BadPictureError("it has no caption")
    values = list(value) if isinstance(value, list | tuple) else [value]
    texts = [one.strip() for one in values if isinstance(one, str)]
    if len(texts) < len(values):
        raise BadPictureError("its caption is no text")
    kept = tuple(dict.fromkeys(_cut(text) for text in texts if text))
    if not kept:
        raise BadPictureError("its caption is empty")
    return kept


def _cut(text: str) -> str:
    """Half characters of UTF-16 are left out; what is longer than any caption is cut."""
    data = text.encode("utf-8", "ignore")[:MAX_CAPTION_BYTES]
    return data.decode("utf-8", "ignore")


def lines_of(data: bytes) -> tuple[str, ...]:
    """The captions of a text file, one a line; raises `BadPictureError`."""
    try:
        return captions_of(data.decode("utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise BadPictureError(f"its caption is not UTF-8 text at byte {error.start}") from None


def part_named(value: object) -> Part | None:
    """The part that a split of this name is: "train", or any other name for what is held out."""
    if not isinstance(value, str) or not value:
        return None
    return "train" if value.startswith("train") or value == "restval" else "held_out"


def chosen_column(
    chosen: str | None, names: Sequence[str], known: Sequence[str], option: str, place: str
) -> str:
    """The column of pictures or captions: the user's, else the first known one.

    Raises DataError where it is not there.
    """
    there = ", ".join(names[:20]) or "none"
    if chosen is not None:
        if chosen in names:
            return chosen
        close = f"; did you mean '{near}'?" if (near := nearest(chosen, names)) else ""
        message = f"there is no column '{chosen}'; those there are: {there}"
        raise data_error("no-such-field", message, place, f"write ?{option}=NAME{close}")
    lowered = {name.lower(): name for name in reversed(names)}
    found = next((lowered[name] for name in known if name in lowered), None)
    if found is None:
        message = f"no column of {option}s is found among: {there}"
        raise data_error("no-such-field", message, place, f"name it: ?{option}=NAME")
    return found
