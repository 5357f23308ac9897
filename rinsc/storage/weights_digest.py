"""The digest that a file of safetensors carries inside, so that damage is found when it is loaded.

It stands in the file's own metadata: a file that another tool writes anew has none, and is as good
as one that never had. It covers the names, types, shapes and places of the tensors and every byte
of them. This module imports nothing of rinsc, not even its reader of JSON: it is a part of the code
in a folder for transformers.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

DIGEST_KEY = "rinsc_sha256"
NO_DIGEST = "0" * 64  # what a writer puts in its place, for `sign_weights` to replace
MAX_HEADER_BYTES = 100_000_000  # as the library safetensors has it
CHECKSUMS, CONFIG = "checksums.json", "config.json"  # in a folder with weights
MODEL_KEYS = ("spec", "rounds")  # of the config: what decides a number
PICTURE_KEYS = ("image_size", "num_channels")  # of the config of a classifier, likewise
MODEL_ENTRY = "config.json: spec, rounds"  # in the list of digests
MAX_JSON_BYTES = 1 << 24
PIECE_BYTES, READ_BYTES = 1 << 26, 1 << 20
THREADS = 4  # beyond that, it is memory that is slow


def sign_weights(path: Path) -> None:
    """Put the digest into a file that was written with `NO_DIGEST` under `DIGEST_KEY`."""
    header, size = _header(path)
    metadata = header["__metadata__"]
    metadata[DIGEST_KEY] = _digest(path, header, 8 + size)
    # In one order, so that equal weights make equal files.
    ordered = header | {"__metadata__": dict(sorted(metadata.items()))}
    text = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    if len(text) > size:
        raise ValueError(f"the header of {path} has no room")
    with path.open("r+b") as file:
        file.seek(8)
        file.write(text.ljust(size))


def is_damaged(path: Path) -> bool:
    """Whether a file that is there has another content than its digest says, or no header."""
    try:
        header, size = _header(path)
        expected = header.get("__metadata__", {}).get(DIGEST_KEY)
        return expected is not None and expected != _digest(path, header, 8 + size)
    except OSError:
        return False
    except (ValueError, AttributeError, RecursionError):
        return True


def config_digest(config: dict[str, Any]) -> str:
    """Of what decides a number in a config.json; tools may change the rest."""
    keys = (*MODEL_KEYS, *(key for key in PICTURE_KEYS if key in config))
    decides = json.dumps({key: config.get(key) for key in keys}, sort_keys=True)
    return hashlib.sha256(decides.encode("utf-8")).hexdigest()


def is_config_changed(folder: Path) -> bool:
    """Whether the list of digests in a folder says otherwise of its config.json, or leaves it out;
    False where there is no list."""
    try:
        if not (folder / CHECKSUMS).is_file() or not (folder / CONFIG).is_file():
            return False
        listed, config = (_small_json(folder / name) for name in (CHECKSUMS, CONFIG))
        if MODEL_ENTRY in listed:
            return bool(listed[MODEL_ENTRY] != config_digest(config))
        if CONFIG in listed:  # of a checkpoint, with all its files
            digest = hashlib.sha256((folder / CONFIG).read_bytes()).hexdigest()
            return bool(listed[CONFIG] != digest)
        return "result.json" not in listed  # a run of rinsc 0.5.0 lists other files alone
    except OSError:
        return False
    except (ValueError, AttributeError, RecursionError):
        return True


def _small_json(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        values = json.loads(file.read(MAX_JSON_BYTES))
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no keys and values")
    return values


def _header(path: Path) -> tuple[dict[str, Any], int]:
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size > MAX_HEADER_BYTES:
            raise ValueError("not a file of safetensors")
        header = json.loads(file.read(size))
    if not isinstance(header, dict):
        raise ValueError("not a file of safetensors")
    return header, size


def _digest(path: Path, header: dict[str, Any], start: int) -> str:
    """Of the header's tensors, and of the digests of the pieces of what follows it."""
    tensors = {name: entry for name, entry in header.items() if name != "__metadata__"}
    whole = hashlib.sha256(json.dumps(tensors, sort_keys=True).encode("utf-8"))
    starts = range(start, path.stat().st_size, PIECE_BYTES)
    with ThreadPoolExecutor(THREADS) as threads:
        for digest in threads.map(partial(_piece_digest, path), starts):
            whole.update(digest)
    return whole.hexdigest()


def _piece_digest(path: Path, start: int) -> bytes:
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(READ_BYTES))
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        for _ in range(PIECE_BYTES // READ_BYTES):
            digest.update(buffer[: file.readinto(buffer)])
    return digest.digest()
