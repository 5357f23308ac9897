"""How a corpus is named, ``KIND:WHERE?key=value``, where it is kept, and its errors."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from rinsc.errors import DataError, did_you_mean, nearest, setting


def data_error(code: str, message: str, place: str | Path | None, hint: str) -> DataError:
    return DataError(code, message, place=None if place is None else str(place), hint=hint)


def cannot_read(path: Path, error: OSError) -> DataError:
    """What the operating system refuses to read."""
    reason = error.strerror or type(error).__name__
    hint = "check the permissions, or choose another place"
    return data_error("cannot-read", f"cannot read: {reason}", path, hint)


def damaged(path: Path, error: BaseException) -> DataError:
    """A file of the right kind that cannot be read to its end."""
    reason = str(error).partition("\n")[0][:200] or type(error).__name__
    return data_error("damaged-file", f"the file is damaged: {reason}", path, "get it again")


def not_utf8(byte: int, place: str | Path) -> DataError:
    hint = "convert the file to UTF-8"
    return data_error("not-utf8", f"byte {byte} is not UTF-8 text", place, hint)


def note_named(name: str) -> None:
    """Remember that the user named this data to a command: a record in a folder that says the same
    name may then open it. Where nothing can be written, nothing is remembered."""
    place = _note_of(name)
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()


def require_named(name: str, record: Path) -> None:
    """Raises DataError for the name of a path or a dataset, read in the ``record`` of a folder,
    that the user has never named here: the folder may be of somebody else.

    A run of 0.4.0 has no note either, so that its user names its text once.
    """
    if ":" in name and not _note_of(name).exists():
        message = f"the folder names '{name:.200}', which you have not named here before"
        option = setting(f"data={name!r}", f"--data {shlex.quote(name)}")
        hint = f"if the folder is yours, evaluate it once with {option}"
        raise data_error("unknown-data", message, record, hint)


def _note_of(name: str) -> Path:
    """An empty file, whose name is a digest of the path, made absolute."""
    kind, _, where = name.partition(":")
    path = where if kind == "hf" else os.path.abspath(expanded(where))
    digest = hashlib.sha256(f"{kind}:{path}".encode("utf-8", "surrogatepass")).hexdigest()
    return data_folder() / "named" / digest


VARIABLE = "RINSC_DATA"


def expanded(where: str) -> Path:
    """The path with a user's home in place of ``~``; left as it is where there is no such user."""
    return Path(os.path.expanduser(where))


def data_folder() -> Path:
    """``RINSC_DATA`` where it is set, else ``rinsc`` in the user's cache directory."""
    named = os.environ.get(VARIABLE)
    if named:
        return expanded(named).absolute()
    return _user_cache() / "rinsc"


def corpora_folder() -> Path:
    return data_folder() / "corpora"


def tokens_folder() -> Path:
    return data_folder() / "tokens"


def _user_cache() -> Path:
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


HUB_KEYS = ("config", "split", "revision")
# The keys that each kind of corpus takes. Text files have none: a ? in a path is a wildcard.
KEYS: Mapping[str, tuple[str, ...]] = {
    "text": (),
    "jsonl": ("field", "bytes"),
    "parquet": ("field", "bytes"),
    "hf": ("field", "bytes", *HUB_KEYS),
    "pairs": ("image", "caption", "root", *HUB_KEYS),
}
DEFAULT_FIELD = "text"
# What the files of a kind end with, where it is not plain text.
SUFFIXES_OF_KIND = {"jsonl": (".jsonl", ".jsonl.gz"), "parquet": (".parquet",)}
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tar")  # of what lies beside captions
HF_BYTES = 1_000_000_000  # read from a streamed dataset unless said otherwise

_OPTIONS = re.compile(r"(.*?)\?([a-z]+=[^&]*(?:&[^&]*)*)", re.DOTALL)


@dataclass(frozen=True)
class CorpusName:
    """A name taken apart; ``kind`` is "" for a corpus with a name of its own."""

    text: str
    kind: str
    where: str
    options: Mapping[str, str]

    @property
    def field(self) -> str:
        return self.options.get("field", DEFAULT_FIELD)

    @property
    def most_bytes(self) -> int | None:
        """How much text is read of it at most; None means all."""
        if "bytes" not in self.options:
            return HF_BYTES if self.kind == "hf" else None
        return int(self.options["bytes"].replace("_", ""))


def parse_name(text: str, own_names: tuple[str, ...]) -> CorpusName:
    """Take a name apart; ``own_names`` are those without a kind. Raises DataError."""
    if text in own_names:
        return CorpusName(text, "", text, {})
    kind, _, where = text.partition(":")
    if kind not in KEYS or not where:
        raise data_error(
            "unknown-corpus", f"'{text}' is not a corpus", None, _hint(text, own_names)
        )
    options: dict[str, str] = {}
    match = _OPTIONS.fullmatch(where) if KEYS[kind] else None
    if match is not None:
        where = match.group(1)
        options = _options(text, kind, match.group(2))
    if not where:
        raise data_error("unknown-corpus", f"'{text}' names no place", None, f"write {kind}:PATH")
    return CorpusName(text, kind, where, options)


def _options(text: str, kind: str, written: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for pair in written.split("&"):
        key, _, value = pair.partition("=")
        if key not in KEYS[kind]:
            message = f"'{key}' is not an option of {kind}:"
            raise data_error("unknown-option", message, text, did_you_mean(key, KEYS[kind]))
        if not value or key in options:
            message = f"'{key}' needs one value"
            raise data_error("bad-option", message, text, f"write {key}=VALUE once")
        options[key] = value
    if not re.fullmatch(r"[1-9][\d_]{0,18}", options.get("bytes", "1")):
        message = f"bytes={options['bytes']} is not a count"
        raise data_error("bad-option", message, text, "write a whole number such as 50_000_000")
    return options


def _hint(text: str, own_names: tuple[str, ...]) -> str:
    if (kind := _kind_of_path(text)) is not None:
        return f"there is a file or folder of that name: write {kind}:{text}"
    kinds = "text:PATH, jsonl:PATH, parquet:PATH, hf:NAME, pairs:PATH"
    close = nearest(text.partition(":")[0], [*own_names, *KEYS])
    if close in KEYS and close is not None:
        return f"did you mean '{close}:{'NAME' if close == 'hf' else 'PATH'}'?"
    if close is not None:
        return f"did you mean '{close}'?"
    return f"use {kinds}, or one of: {', '.join(own_names)}"


def _kind_of_path(text: str) -> str | None:
    """The kind of corpus that a file or a folder would be; None where there is none."""
    try:
        path = expanded(text)
        if not text or not path.exists():
            return None
        names = [path.name] if path.is_file() else [file.name for file in path.iterdir()]
    except (OSError, ValueError):
        return None
    written = any(name.lower().endswith(".md") for name in names)  # text, with its pictures
    for kind, suffixes in {"pairs": PICTURE_SUFFIXES, **SUFFIXES_OF_KIND}.items():
        if any(name.lower().endswith(suffixes) for name in names) and not (
            kind == "pairs" and written
        ):
            return kind
    return "text"
