"""What a model's file may ask for, and whether it and its weights are as they were written.

A file that a stranger wrote can name other files and operators that load code. What it names is
checked before ONNX Runtime sees it. The digest of a file stands in its own metadata, computed with
zeros in its place; that of the weights beside it stands there too.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path

from rinsc.__about__ import __version__
from rinsc.backends.onnx.contract import Key, is_ours
from rinsc.backends.onnx.outline import Outline, read_outline
from rinsc.errors import CheckpointError, Problem
from rinsc.storage.files import file_digest, is_held, parse_json, sampled_digest

DIGEST_KEY = "rinsc.sha256"  # metadata: of the file itself
NO_DIGEST = "0" * 64
SAMPLED_DIGITS = 16  # of a digest that rinsc 0.4.0 wrote, of samples of the weights


# As a protobuf has the entry: its value is field 2, of 64 bytes.
_MARK = DIGEST_KEY.encode("ascii") + b"\x12\x40"


def signed(model: bytes) -> bytes:
    """A serialized model, with its digest in place of `NO_DIGEST`."""
    start = model.rfind(_MARK + NO_DIGEST.encode("ascii"))
    if start < 0:
        return model
    start += len(_MARK)
    view, digest = memoryview(model), hashlib.sha256(model).hexdigest()
    return b"".join((view[:start], digest.encode("ascii"), view[start + len(digest) :]))


def is_plain_name(name: object) -> bool:
    """Whether it names a file beside the model, and nothing elsewhere."""
    return (
        isinstance(name, str)
        and name not in ("", ".", "..")
        and not any(char in name for char in "/\\\0")
        and (os.name != "nt" or ":" not in name)
    )


def data_files(path: Path) -> set[Path]:
    """The files of weights beside a model that is there; none for what is no model."""
    try:
        with (
            path.open("rb") as file,
            mmap(file.fileno(), 0, access=ACCESS_READ) as model,
            memoryview(model) as view,
        ):
            outline = read_outline(view)
    except (OSError, ValueError):
        return set()
    return {path.parent / name for name in outline.external_bytes if is_plain_name(name)}


def left_data_files(path: Path) -> set[Path]:
    """Files of weights that `OnnxModel.save` wrote for a model at ``path``: that of the model that
    is there, and those that killed commands left."""
    own = re.compile(rf"{re.escape(path.name)}(\.[0-9a-f]{{8}})?\.data")
    used = {file for file in data_files(path) if own.fullmatch(file.name)}
    left = {*path.parent.glob(f"{glob.escape(path.name)}.????????.data")}
    if used & left:  # then the plain name is that of weights from before
        left.add(path.with_name(f"{path.name}.data"))
    pattern = re.compile(rf"\.{re.escape(path.name)}(\.[0-9a-f]{{8}})?-[0-9a-f]{{8}}\.part\.data")
    unfinished = {file for file in path.parent.glob(".*.part.data") if pattern.fullmatch(file.name)}
    begun = {file for file in unfinished if not is_held(file)}
    return used | begun | {file for file in left if own.fullmatch(file.name)}


def check_requests(outline: Outline, path: Path) -> None:
    """Raises `CheckpointError` where the model names files elsewhere, operators that load code, or
    tensors that are larger than what is written of them."""
    strange = sorted(name for name in outline.external_bytes if not is_plain_name(name))
    foreign = sorted(
        f"{domain}.{name}".lstrip(".")
        for domain, name in outline.operators
        if not is_ours(domain, name)
    )
    if strange:
        message = f"the model keeps weights outside of its folder: {strange[0]!r:.80}"
    elif foreign:
        message = f"the model has an operator that rinsc never writes: {foreign[0]:.80}"
    elif outline.computed:
        message = f"the model makes '{outline.computed[0]:.80}' from constants alone"
    elif outline.hollow:
        message = f"the model claims more than it holds for '{outline.hollow[0]:.80}'"
    else:
        return
    newer = newer_model(outline.metadata, str(path)) if foreign else None
    if newer is not None:
        raise newer
    hint = "run models that rinsc exported"
    raise CheckpointError("foreign-model", message, place=str(path), hint=hint)


def newer_model(metadata: Mapping[str, str], location: str) -> CheckpointError | None:
    """The error for what is strange in a model of a newer rinsc; None where it is of no newer."""
    writer = metadata.get(Key.VERSION, "")
    if _release(writer) <= _release(__version__):
        return None
    message = f"the model was written by rinsc {writer}, and this is {__version__}"
    hint = f"pip install 'rinsc>={writer}'"
    return CheckpointError("newer-model", message, place=location, hint=hint)


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, to compare; empty for what is none."""
    match = re.match(r"\d{1,9}(\.\d{1,9})*", version)
    return tuple(map(int, match.group().split("."))) if match else ()


@contextmanager
def compared(path: Path, metadata: Mapping[str, str], outline: Outline) -> Iterator[None]:
    """Compare the file and its weights with their digests while the body runs; raises
    `CheckpointError` after it. Files without digests, as of rinsc 0.4.0, pass."""
    with ThreadPoolExecutor(2) as others:
        data = others.submit(_data_problem, path, metadata, outline)
        own = others.submit(_is_damaged, path, metadata)
        yield
        problem = data.result()
        if problem is None and own.result():
            message = "the model is damaged: the file is not as it was written"
            hint = f"export it again; if you changed it, remove '{DIGEST_KEY}' from its metadata"
            problem = Problem("damaged-model", message, place=str(path), hint=hint)
        if problem is not None:
            raise CheckpointError.of(problem)


def _is_damaged(path: Path, metadata: Mapping[str, str]) -> bool:
    expected = metadata.get(DIGEST_KEY)
    if expected is None:
        return False
    with path.open("rb") as file, mmap(file.fileno(), 0, access=ACCESS_READ) as model:
        start = model.rfind(_MARK) + len(_MARK)
        with memoryview(model) as view:
            digest = hashlib.sha256(view[:start])
            digest.update(NO_DIGEST.encode("ascii"))
            digest.update(view[start + len(NO_DIGEST) :])
    return digest.hexdigest() != expected


def _data_problem(path: Path, metadata: Mapping[str, str], outline: Outline) -> Problem | None:
    record = metadata.get(Key.DATA)
    if record is None:
        return None  # all in one file, or without a record
    try:
        name, expected = parse_json(record)
        listed = is_plain_name(name) and set(outline.external_bytes) <= {name}
        digest = sampled_digest if len(expected) == SAMPLED_DIGITS else file_digest
        if listed and digest(path.parent / name) == expected:
            return None
    except (OSError, ValueError, TypeError):
        name = None
    shown = name if is_plain_name(name) else "the file beside it"
    message = f"the weights in {shown} are not those of this model"
    hint = f"they belong to one {path.name} alone: copy both, or export the model again"
    return Problem("damaged-data", message, place=str(path), hint=hint)
