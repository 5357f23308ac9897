"""Raw arrays in a folder with a record: numbers as they lie in memory, and a digest of each file.

A folder counts as long as every file is as it was written. Large files are compared by samples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rinsc.storage.files import file_digest, read_json, sampled_digest, short_digest

RECORD = "record.json"
WHOLE_DIGEST_BYTES = 1 << 28  # larger files are compared by samples


def file_records(folder: Path, types: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """``files`` of a record: the type of numbers and the digest of each file."""
    return {
        name: {"type": kind, "digest": array_digest(folder / name)} for name, kind in types.items()
    }


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record, which has ``files``, with a digest of its own."""
    data = json.dumps({**record, "digest": _record_digest(record)}).encode("utf-8")
    with (folder / RECORD).open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def valid_record(folder: Path, types: Mapping[str, tuple[str, ...]]) -> dict[str, Any] | None:
    """What was written down of whole files; None where they are not there, or not whole.

    ``types`` are the files and what their numbers may be.
    """
    try:
        record: dict[str, Any] = read_json(folder / RECORD)
        if record.pop("digest") != _record_digest(record):
            return None
        files = record["files"]
        whole = files.keys() == types.keys() and all(
            facts["type"] in types[name] and array_digest(folder / name) == facts["digest"]
            for name, facts in files.items()
        )
        return record if whole else None
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None


def note_use(folder: Path) -> None:
    """Remember by the time of the record that the folder was used now."""
    with suppress(OSError):
        os.utime(folder / RECORD)


def mapped_arrays(folder: Path, record: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """Every file of a record, mapped into memory."""
    return {
        name: mapped(folder / name, np.dtype(facts["type"]))
        for name, facts in record["files"].items()
    }


def mapped(path: Path, kind: np.dtype[Any]) -> npt.NDArray[Any]:
    """A file of numbers; one without any cannot be mapped."""
    if path.stat().st_size == 0:
        return np.empty(0, dtype=kind)
    return np.memmap(path, dtype=kind, mode="r")


def array_digest(path: Path) -> str:
    if path.stat().st_size > WHOLE_DIGEST_BYTES:
        return sampled_digest(path)
    return file_digest(path)


def _record_digest(record: Mapping[str, Any]) -> str:
    return short_digest(json.dumps(record, sort_keys=True))
