"""The layout of a run folder: every name in one place, and the rules for starting in one."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rinsc.__about__ import __version__
from rinsc.errors import CheckpointError, OutputError, Problem, setting
from rinsc.objectives import Pieces
from rinsc.spec import spec_to_toml
from rinsc.spec.towers import AnySpec
from rinsc.storage.files import (
    cannot_write,
    check_folder,
    file_digest,
    make_folder,
    read_json,
    read_regular,
    remove_parts_of,
    text_digest,
    write_atomically,
)
from rinsc.storage.weights_digest import MODEL_ENTRY, config_digest
from rinsc.text.tokenizer_files import TEMPLATE_FILE
from rinsc.training.checkpoint import checkpoints, remove_checkpoints
from rinsc.training.config import TrainConfig, config_to_toml

PACKAGES = ("torch", "transformers", "accelerate", "numpy", "tokenizers", "safetensors")


@dataclass(frozen=True)
class RunFolder:
    """The files of one training run. A run is finished when its result has been written."""

    path: Path

    @property
    def model_spec(self) -> Path:
        return self.path / "model.toml"

    @property
    def config(self) -> Path:
        return self.path / "train.toml"

    @property
    def data_record(self) -> Path:
        return self.path / "data.json"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def source(self) -> Path:
        """Which weights the run began with, of one that was begun from another run."""
        return self.path / "source.json"

    @property
    def initial_weights(self) -> Path:
        """The weights that such a run began with, until it is finished."""
        return self.path / "initial.safetensors"

    @property
    def tokenizer(self) -> Path:
        return self.path / "tokenizer.json"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def hf_config(self) -> Path:
        return self.path / "config.json"

    @property
    def tokenizer_config(self) -> Path:
        return self.path / "tokenizer_config.json"

    @property
    def processor_config(self) -> Path:
        """What transformers makes the inputs of a classifier with."""
        return self.path / "preprocessor_config.json"

    @property
    def chat_template(self) -> Path:
        return self.path / TEMPLATE_FILE

    @property
    def evaluation(self) -> tuple[Path, ...]:
        """What ``rinsc eval`` writes beside the run, unless it is told where."""
        return self.path / "eval.svg", self.path / "eval.json"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def weights(self) -> Path:
        """The file, or the list of its shards where transformers has cut it."""
        whole = self.path / "model.safetensors"
        shards = self.path / "model.safetensors.index.json"
        return shards if shards.is_file() and not whole.exists() else whole

    @property
    def result(self) -> Path:
        return self.path / "result.json"

    @property
    def checksums(self) -> Path:
        """The SHA-256 of every file that decides what a finished run says; the weights carry
        theirs inside."""
        return self.path / "checksums.json"

    @property
    def pieces(self) -> Path:
        """The main figure of a finished run on each held-out example: `read_pieces`."""
        return self.path / "held_out.npy"

    @property
    def healing(self) -> Path:
        """What became of each number of rounds, of a run that follows another model."""
        return self.path / "healing.json"

    @property
    def lock(self) -> Path:
        return self.path / ".lock"

    @property
    def is_finished(self) -> bool:
        """Whether the result of a run is here, and the model that it is of."""
        return self.result.is_file() and self.weights.is_file()

    @property
    def is_of_others(self) -> bool:
        """Whether a model or checkpoints lie here that no run of ours wrote: it has its inputs."""
        written = [checkpoint.path for checkpoint in checkpoints(self.path)]
        outputs = (self.weights, self.hf_config, *written)
        return not self.model_spec.exists() and any(output.exists() for output in outputs)

    @property
    def is_begun(self) -> bool:
        """Whether a run was begun here, finished or not."""
        return any(file.exists() for file in self.files)

    @property
    def compared(self) -> tuple[Path, ...]:
        """Files in `checksums`, the result first. The record of the data has digests itself, which
        are compared with the text and the tokenizer."""
        inputs = (self.model_spec, self.config, self.source, self.tokenizer)
        return (self.result, *inputs)

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that training writes, the result first."""
        inputs = (self.model_spec, self.config, self.data_record, self.environment, self.tokenizer)
        model = (self.result, self.checksums, self.weights, self.hf_config, self.tokenizer_config)
        begun_with = self.source, self.initial_weights
        figures = (self.pieces, self.healing, *self.evaluation, self.metrics)
        tools = self.processor_config, self.chat_template
        return (*model, *tools, *figures, *inputs, *begun_with)

    def evaluation_of(self, checkpoint: str) -> Path:
        """The picture that ``rinsc eval`` draws of a checkpoint, unless it is told where."""
        return self.path / f"eval-{checkpoint}.svg"


def open_run_folder(path: Path, *, overwrite: bool = False) -> RunFolder:
    """Create the folder, or take an old one over.

    An unfinished run that is there is gone on with, a finished one left alone with an OutputError;
    with ``overwrite`` either is removed. Files of other names are never touched. Removing is for
    when nothing can go wrong any more; `check_run_folder` tells before what would be refused.
    """
    folder = check_run_folder(path, overwrite=overwrite)
    make_folder(path)
    for file in folder.files:
        remove_parts_of(file)
    if overwrite:
        _remove(folder)
    return folder


def check_run_folder(path: Path, *, overwrite: bool = False) -> RunFolder:
    """The folder that `open_run_folder` would open; raises its errors and changes nothing."""
    folder = RunFolder(path)
    check_folder(path)
    if folder.is_finished and not overwrite:
        raise OutputError.of(already_finished(folder))
    if folder.is_of_others and not overwrite:
        message = "the folder holds a model or checkpoints, and no model.toml of a run"
        hint = "choose another folder, or ask to overwrite it"
        raise OutputError("not-a-run", message, place=str(path), hint=hint)
    return folder


def overwriting() -> str:
    """How you ask for an old run to go."""
    return setting("overwrite=True", "--overwrite")


def already_finished(folder: RunFolder) -> Problem:
    """What is wrong with training into the folder of a finished run."""
    message = "the folder already holds a finished run"
    hint = f"choose another folder, or use {overwriting()}"
    return Problem("run-exists", message, place=str(folder.path), hint=hint)


@contextmanager
def alone_in(folder: RunFolder) -> Iterator[None]:
    """Keep other processes from training into the folder; raises OutputError where one does.

    The system frees the lock of a process that is killed. Where a file system has no locks, nothing
    is kept.
    """
    import filelock

    make_folder(folder.path)
    lock = filelock.FileLock(folder.lock)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        message = "another process is training into this folder right now"
        hint = "wait for it, or choose another folder"
        raise OutputError("run-in-use", message, place=str(folder.path), hint=hint) from None
    except NotImplementedError:
        pass
    except OSError as error:
        raise cannot_write(folder.path, error) from error
    try:
        yield
    finally:
        lock.release()


def write_inputs(
    folder: RunFolder,
    spec: AnySpec,
    config: TrainConfig,
    data_record: Mapping[str, object],
    source_record: Mapping[str, object] | None = None,
) -> None:
    """Write what the run is made from, before it starts; raises OutputError."""
    if source_record is not None:
        write_atomically(folder.source, _json(source_record))
    write_atomically(folder.model_spec, spec_to_toml(spec))
    write_atomically(folder.config, config_to_toml(config))
    write_atomically(folder.data_record, _json(data_record))
    write_atomically(folder.environment, _json(environment()))


def begun_tokenizer(folder: RunFolder) -> Mapping[str, object] | None:
    """What the record of a run that was begun says of its tokenizer; None where nothing does."""
    try:
        record = read_json(folder.data_record)["tokenizer"]
    except (OSError, ValueError, TypeError, LookupError):
        return None
    return record if isinstance(record, dict) else None


def write_result(folder: RunFolder, result: Mapping[str, object]) -> None:
    """Mark the run as finished; raises OutputError."""
    text = _json(result)
    try:
        listed = {
            file.name: file_digest(file)
            for file in (*folder.compared[1:], folder.pieces)
            if file.is_file()
        } | {folder.result.name: text_digest(text)}
        if folder.hf_config.is_file():
            listed[MODEL_ENTRY] = config_digest(read_json(folder.hf_config))
    except OSError as error:
        raise cannot_write(folder.checksums, error) from error
    write_atomically(folder.checksums, _json(listed))
    write_atomically(folder.result, text)


def write_pieces(folder: RunFolder, pieces: Pieces | None) -> None:
    """Keep the figure of each held-out example, where the objective has one; raises OutputError."""
    if pieces is not None:
        write_atomically(folder.pieces, pieces.to_bytes())


def read_pieces(folder: RunFolder) -> Pieces | None:
    """The main figure piece by piece, as the run ended; None for a run that did not keep it.

    Raises CheckpointError where the file is damaged.
    """
    if not folder.pieces.is_file():
        return None
    check_files(folder, folder.pieces)
    try:
        return Pieces.from_bytes(read_regular(folder.pieces))
    except (OSError, ValueError, EOFError, MemoryError):
        raise _changed(folder.pieces, "this file of the run cannot be read") from None


def check_files(folder: RunFolder, *files: Path) -> None:
    """Raises CheckpointError where one of the ``files`` of a finished run, by default all that
    `RunFolder.compared` has, is not as it was written.

    Runs of rinsc 0.4.0 have no list of digests, and pass. What is missing is told where it is read.
    """
    if not (folder.result.is_file() and os.path.lexists(folder.checksums)):
        return
    try:
        listed = read_json(folder.checksums)
        for file in files or folder.compared:
            if file.exists() and file_digest(file) != listed.get(file.name):
                raise _changed(file, "this file of the run is not as it was written")
    except (OSError, ValueError, AttributeError, TypeError):
        raise _changed(folder.checksums, "the list of digests of the run is damaged") from None


def _changed(file: Path, message: str) -> CheckpointError:
    hint = "restore the file; if you changed it yourself, remove checksums.json"
    return CheckpointError("damaged-run", message, place=str(file), hint=hint)


def environment() -> dict[str, str]:
    """Versions of what a result depends on."""
    versions = {"rinsc": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _remove(folder: RunFolder) -> None:
    of_checkpoints = folder.path.glob("eval-checkpoint-*")
    for file in (*folder.files, *of_checkpoints):
        try:
            file.unlink(missing_ok=True)
        except OSError as error:
            raise cannot_write(file, error) from error
    remove_checkpoints(folder.path)
    shutil.rmtree(folder.tensorboard, ignore_errors=True)


def _json(values: Mapping[str, Any]) -> str:
    return json.dumps(values, indent=2) + "\n"
