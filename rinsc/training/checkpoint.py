"""Checkpoints of a run: a folder each, written aside, on disk as a whole before it has its name.

What is inside has the names that transformers' Trainer gives it, and a list of the files with their
sha256. A torn checkpoint has no name to be found under; a damaged one is told by the list.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rinsc.errors import OutputError
from rinsc.storage.files import (
    cannot_write,
    file_digest,
    flush_to_disk,
    read_json,
    write_atomically,
)

NAME = "checkpoint-{step}"
MANIFEST = "checksums.json"
METRICS = "metrics.json"
WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.pt"  # as the Trainer calls them
SCHEDULER, RNG_STATES = "scheduler.pt", "rng_state*.pth"
TRAINER_STATE = "trainer_state.json"
SHARDED = "sharded"  # the folder inside that many processes write together
DECIDING = (".safetensors", ".pt", ".pth", ".bin", ".json", ".distcp", ".metadata")  # by suffix
WHOLE_FILES = {WEIGHTS, OPTIMIZER, SCHEDULER}
SHARDED_FILES = {f"{SHARDED}/checkpoint.json", f"{SHARDED}/.metadata"}
_NAME = re.compile(r"checkpoint-(\d+)")
_FULL_DISK = (
    "No space left",
    "quota exceeded",
    "failed writing",
    "unexpected pos",  # of the zip file that torch.save writes
    "File too large",
    "os error 28",
    "os error 27",
)


@dataclass(frozen=True)
class Checkpoint:
    """A named checkpoint of a run folder."""

    path: Path
    step: int

    @property
    def is_sharded(self) -> bool:
        return (self.path / SHARDED).is_dir()

    @property
    def metrics(self) -> Path:
        """What was measured at its step, whether it was logged or not."""
        return self.path / METRICS

    @property
    def trainer_state(self) -> Path:
        return self.path / TRAINER_STATE


def is_checkpoint_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None


def checkpoints(folder: Path) -> list[Checkpoint]:
    """Those of a run folder, the earliest first."""
    if not folder.is_dir():
        return []
    named = ((path, _NAME.fullmatch(path.name)) for path in folder.iterdir() if path.is_dir())
    every = [Checkpoint(path, int(match[1])) for path, match in named if match is not None]
    return sorted(every, key=lambda checkpoint: checkpoint.step)


def latest_whole(
    folder: Path, is_usable: Callable[[Checkpoint], bool] = lambda checkpoint: True
) -> tuple[Checkpoint | None, list[Checkpoint]]:
    """The last checkpoint whose files are as they were written, and the later ones that are not.

    ``is_usable`` says what else must hold of it.
    """
    damaged: list[Checkpoint] = []
    for candidate in reversed(checkpoints(folder)):
        if is_whole(candidate) and is_usable(candidate):
            return candidate, damaged
        damaged.append(candidate)
    return None, damaged


def is_whole(checkpoint: Checkpoint) -> bool:
    """Whether all that a run goes on from is there, with the content that it was written with."""
    try:
        listed = read_json(checkpoint.path / MANIFEST)
        names = _names_in(checkpoint.path)
        needed = {name for name in names if name.endswith(DECIDING)}
        if checkpoint.trainer_state.is_file():
            needed |= SHARDED_FILES if checkpoint.is_sharded else WHOLE_FILES
        return needed <= listed.keys() <= names and all(
            file_digest(checkpoint.path / name) == digest for name, digest in listed.items()
        )
    except (OSError, ValueError, AttributeError):
        return False


def is_of_its_step(checkpoint: Checkpoint) -> bool:
    """Whether it was written after the step that its name says, and can be loaded as a model."""
    try:
        state = read_json(checkpoint.trainer_state)
    except (OSError, ValueError):
        return False
    step = state.get("global_step") if isinstance(state, dict) else None
    return type(step) is int and step == checkpoint.step and _is_config(checkpoint)


def _is_config(checkpoint: Checkpoint) -> bool:
    """Whether transformers can read the config that it wrote beside the weights."""
    from transformers import PreTrainedConfig

    path = checkpoint.path / "config.json"
    if not path.exists():
        return True
    try:
        PreTrainedConfig.from_json_file(str(path))
    except Exception:  # of a damaged file the library raises whatever it comes to
        return False
    return True


def _names_in(folder: Path) -> set[str]:
    """Files below a checkpoint, but for the list of them."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix() for file in files} - {MANIFEST}


def start_draft(folder: Path, step: int) -> Path:
    """An empty folder beside the checkpoints, to write one in; raises OutputError."""
    draft = draft_of(folder, step)
    try:
        remove_drafts(folder)
        draft.mkdir(parents=True)
    except OSError as error:
        raise cannot_write(draft, error) from error
    return draft


def draft_of(folder: Path, step: int) -> Path:
    return folder / f".{NAME.format(step=step)}.part"


def publish(folder: Path, step: int, keep: int, spared: int | None = None) -> Checkpoint:
    """Give what `start_draft` began its name, once it is on disk; the last ``keep`` are kept, and
    that of the step ``spared``."""
    draft, path = draft_of(folder, step), folder / NAME.format(step=step)
    try:
        names = sorted(_names_in(draft))
        files = [draft / name for name in names]
        listed = {name: file_digest(draft / name) for name in names}
        write_atomically(draft / MANIFEST, json.dumps(listed, indent=1))
        folders = (item for item in draft.rglob("*") if item.is_dir())
        for item in (*files, *folders, draft):
            flush_to_disk(item)
        if path.exists():  # of a step that is trained again, after a damaged checkpoint
            _discard(path)
        draft.rename(path)
        flush_to_disk(folder)
        every = checkpoints(folder)
        before = [item for item in every if item.step <= step]
        for old in [*before[:-keep], *every[len(before) :]]:  # a later one was passed over
            if old.step != spared or old.step > step:
                _discard(old.path)
    except OSError as error:
        raise cannot_write(path, error) from error
    return Checkpoint(path, step)


def remove_checkpoints(folder: Path) -> None:
    """Remove all of a run's checkpoints, and what was left of unfinished ones."""
    try:
        for checkpoint in checkpoints(folder):
            _discard(checkpoint.path)
        remove_drafts(folder)
    except OSError as error:
        raise cannot_write(folder, error) from error


def remove_drafts(folder: Path) -> None:
    for draft in folder.glob(".checkpoint-*.part") if folder.is_dir() else ():
        shutil.rmtree(draft)


def _discard(path: Path) -> None:
    """Remove a checkpoint so that a half of it is never found under its name."""
    aside = path.with_name(f".{path.name}.old.part")  # beside the part that may take its place
    if aside.exists():
        shutil.rmtree(aside)
    path.rename(aside)
    shutil.rmtree(aside)


@contextmanager
def writing_errors(path: Path) -> Iterator[None]:
    """What libraries raise where a disk is full or cannot be written becomes an OutputError."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if not any(phrase in str(error) for phrase in _FULL_DISK):
            if isinstance(error, OSError):
                raise cannot_write(path, error) from error
            raise
        message = "cannot write: the disk is full, or a limit on file sizes is reached"
        hint = (
            "free some space and start the same command again: it goes on from the last checkpoint"
        )
        raise OutputError("cannot-write", message, place=str(path), hint=hint) from error
