"""Checkpoints that many processes write together, and that any number of processes reads.

A checkpoint is a folder in a file system that all processes share. It is written aside and takes
its name once it is whole and on disk; `checkpoint.json` says how long each file has to be.
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_model_state_dict,
    set_state_dict,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from rinsc.backends.torch.parallel import emitted_module
from rinsc.backends.torch.pickles import (
    ForeignPickleError,
    IndexReader,
    PlainValuesPlanner,
    read_index,
)
from rinsc.backends.torch.processes import is_first, on_first, process_count
from rinsc.backends.torch.weight_files import settings_that_differ
from rinsc.errors import CheckpointError, OutputError
from rinsc.fingerprints import fingerprint
from rinsc.spec import spec_to_toml
from rinsc.storage.files import file_digest, read_json, text_digest, write_atomically
from rinsc.storage.folders import publish_folder

FORMAT = "rinsc-sharded-checkpoint-1"
MANIFEST = "checkpoint.json"

Optimizers = Optimizer | Iterable[Optimizer]


def save_sharded(
    folder: str | Path, model: nn.Module, optimizers: Optimizers, extra: Mapping[str, Any]
) -> None:
    """Write model and optimizers to ``folder``, which is replaced; every process calls it.

    ``extra`` is what else a run needs, as JSON has it; the first process's is kept. Each process
    writes its own part. Raises `OutputError`, on all of them alike, with the old folder untouched.
    """
    folder = Path(folder)
    for optimizer in _listed(optimizers):
        _begin_states(optimizer)
    unfinished, state = _beside(folder, "part"), _state(model, optimizers)
    _, graph = emitted_module(model)
    manifest = {
        "format": FORMAT,
        "fingerprint": fingerprint(graph.spec),
        "spec": spec_to_toml(graph.spec),
        "processes": process_count(),
        "extra": dict(extra),
    }
    _on_first(folder, lambda: _make_empty(unfinished))
    try:
        with _alone_or_together() as no_dist:
            save(state, checkpoint_id=unfinished, no_dist=no_dist)
        _on_first(folder, lambda: _publish(unfinished, folder, manifest))
    except CheckpointException as error:
        reason = next(iter(error.failures.values()))[0]
        if isinstance(reason, OSError):
            raise _cannot_write(folder, reason) from error
        if isinstance(reason, Exception):  # which a CheckpointException, to `except`, is not
            raise reason from error
        raise
    finally:
        if is_first():
            shutil.rmtree(unfinished, ignore_errors=True)


def load_sharded(folder: str | Path, model: nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    """Fill model and optimizers from a folder; returns ``extra``. Every process calls it.

    The number of processes may differ from that which wrote. Nothing that the files name is run.
    Raises `CheckpointError` for a folder that is damaged or of another model; what is damaged by
    accident is found before anything is changed.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder)
    on_first(lambda: _check_digests(folder, manifest))
    try:
        index = read_index(folder, manifest["files"])
    except (ForeignPickleError, OSError, AttributeError) as error:
        raise _foreign(folder, error) from None
    state = _state(model, optimizers)
    _require_same_model(folder, manifest, model, state["model"], index)
    try:
        with _alone_or_together() as no_dist:
            load(
                state,
                storage_reader=IndexReader(folder, index),
                planner=PlainValuesPlanner(),
                no_dist=no_dist,
            )
    except CheckpointException as error:
        raise _foreign(folder, next(iter(error.failures.values()))[0]) from None
    set_state_dict(
        model,
        _listed(optimizers),
        model_state_dict=state["model"],
        optim_state_dict=state["optimizer"],
    )
    return dict(manifest["extra"])


def full_state_dict(model: nn.Module) -> dict[str, torch.Tensor]:
    """All weights, whole and on the CPU, for the first process; nothing for the others.

    Every process calls it. The names are those of the model before `parallelize`.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = get_model_state_dict(model, options=options)
    return {name: cast(torch.Tensor, weights[name]) for name in weights if is_first()}


def _state(model: nn.Module, optimizers: Optimizers) -> dict[str, Any]:
    weights, moments = get_state_dict(model, _listed(optimizers))
    return {"model": weights, "optimizer": moments}


def _begin_states(optimizer: Optimizer) -> None:
    """Give weights that were in no step so far the zeros that Adam, AdamW and Muon begin with: a
    checkpoint is read by an optimizer that has a state for each of its weights."""
    known = isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW | torch.optim.Muon)
    begun = next(((w, state) for w, state in optimizer.state.items() if state and w.ndim), None)
    if begun is None or not known:
        return
    like, values = begun
    for weight in (weight for group in optimizer.param_groups for weight in group["params"]):
        if weight.requires_grad and not optimizer.state.get(weight):
            optimizer.state[weight] = {
                key: torch.zeros_like(weight.detach() if value.shape == like.shape else value)
                for key, value in values.items()
            }


def _listed(optimizers: Optimizers) -> list[Optimizer]:
    return [optimizers] if isinstance(optimizers, Optimizer) else list(optimizers)


@contextmanager
def _alone_or_together() -> Iterator[bool]:
    """Whether this process is alone, which torch.distributed.checkpoint would warn of."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        yield not dist.is_initialized()


def _on_first(folder: Path, action: Callable[[], None]) -> None:
    """Do something on the first process while the others wait; what fails there fails on all."""

    def act() -> None:
        try:
            action()
        except OSError as error:
            raise _cannot_write(folder, error) from error

    on_first(act)


def _beside(folder: Path, what: str) -> Path:
    return folder.with_name(f".{folder.name}.{what}")


def _make_empty(unfinished: Path) -> None:
    if unfinished.exists():
        shutil.rmtree(unfinished)
    unfinished.mkdir(parents=True)


def _publish(unfinished: Path, folder: Path, manifest: dict[str, Any]) -> None:
    """Give what is written its name; an old folder of that name goes last."""
    files = sorted(unfinished.iterdir())
    facts = {
        "files": {path.name: path.stat().st_size for path in files},
        "sha256": {path.name: file_digest(path) for path in files},
    }
    whole = manifest | facts
    write_atomically(
        unfinished / MANIFEST, json.dumps({**whole, "digest": _manifest_digest(whole)})
    )
    publish_folder(unfinished, folder)


def _manifest_digest(manifest: Mapping[str, Any]) -> str:
    return text_digest(json.dumps(manifest, sort_keys=True))


def _read_manifest(folder: Path) -> dict[str, Any]:
    """What `save_sharded` wrote about a folder, once every file of it is there and whole."""
    try:
        manifest = read_json(folder / MANIFEST)
    except FileNotFoundError:
        message, hint = "there is no checkpoint here", "name a folder that save_sharded wrote"
        raise _error("no-checkpoint", message, folder, hint) from None
    except (OSError, ValueError):
        raise _damaged(folder, MANIFEST) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        message = "this folder is not a checkpoint of many processes"
        hint = "name a folder that save_sharded wrote"
        raise _error("not-a-checkpoint", message, folder, hint)
    own = manifest.pop("digest", None)  # rinsc 0.4.0 wrote none
    if own is not None and own != _manifest_digest(manifest):
        raise _damaged(folder, MANIFEST)
    files = manifest.get("files")
    if not (isinstance(files, dict) and files and isinstance(manifest.get("extra"), dict)):
        raise _damaged(folder, MANIFEST)
    for name, size in files.items():
        path = folder / name
        if Path(name).name != name or not path.is_file() or path.stat().st_size != size:
            raise _damaged(folder, name)
    return manifest


def _check_digests(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raises `CheckpointError` for a file with other content; rinsc 0.4.0 wrote no digests."""
    digests = manifest.get("sha256")
    if digests is None:
        return
    for name in manifest["files"]:
        try:
            is_whole = file_digest(folder / name) == digests[name]
        except (OSError, LookupError, TypeError):
            is_whole = False
        if not is_whole:
            raise _damaged(folder, name)


def _require_same_model(
    folder: Path,
    manifest: dict[str, Any],
    model: nn.Module,
    weights: Mapping[str, Any],
    metadata: Metadata,
) -> None:
    """Fingerprints, then names and shapes: of these the error can say which blocks differ."""
    emitted, graph = emitted_module(model)
    own = {f"model.{name}": tuple(tensor.shape) for name, tensor in weights.items()}
    in_file = {
        name: tuple(entry.size)
        for name, entry in metadata.state_dict_metadata.items()
        if name.startswith("model.") and isinstance(entry, TensorStorageMetadata)
    }
    if manifest.get("fingerprint") == fingerprint(graph.spec) and own == in_file:
        return
    modules = sorted(
        {
            next(
                (module for module in name.split(".") if module in _modules(emitted)),
                name.split(".")[1],
            )
            for name in own.keys() | in_file.keys()
            if own.get(name) != in_file.get(name)
        }
    )
    settings = settings_that_differ(manifest.get("spec"), graph.spec)  # of rinsc 0.5.0 none
    differ = f"they differ in {', '.join(modules)}" if modules else ""
    differing = "; ".join(filter(None, (settings, differ))) or "their settings or schedules differ"
    message = f"the checkpoint is of another model than '{graph.spec.text}': {differing}"
    hint = "load it into the model that it was written from"
    raise _error("checkpoint-of-another-model", message, folder, hint)


def _modules(emitted: nn.Module) -> set[str]:
    return {name for name, _ in emitted.named_children()}


def _cannot_write(folder: Path, error: OSError) -> OutputError:
    reason = (error.strerror or type(error).__name__).lower()
    hint = "check the permissions and the free space, or choose another place"
    message = f"cannot write the checkpoint: {reason}"
    return OutputError("cannot-write", message, place=str(folder), hint=hint)


def _damaged(folder: Path, name: str) -> CheckpointError:
    message = f"the checkpoint is damaged or cut short: {name}"
    return _error("damaged-checkpoint", message, folder, "load an earlier checkpoint")


def _foreign(folder: Path, error: BaseException) -> CheckpointError:
    """A checkpoint whose files save_sharded did not write, or not for these optimizers."""
    reason = str(error).partition("\n")[0][:160] or type(error).__name__
    message = f"the checkpoint is damaged or was written by something else: {reason}"
    return _error("damaged-checkpoint", message, folder, "load an earlier checkpoint")


def _error(code: str, message: str, folder: Path, hint: str) -> CheckpointError:
    return CheckpointError(code, message, place=str(folder), hint=hint)


def shard_weights(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Fill a sharded model with whole weights of the same names; every process has them all."""
    options = StateDictOptions(full_state_dict=True)
    set_model_state_dict(model, dict(weights), options=options)


def shard_moments(optimizers: Iterable[Optimizer], states: Iterable[Mapping[str, Any]]) -> None:
    """Fill optimizers of a sharded model with the state dicts of optimizers built alike over the
    whole model; every process has them all."""
    for optimizer, state in zip(optimizers, states, strict=True):
        parameters = [
            parameter for group in optimizer.param_groups for parameter in group["params"]
        ]
        spread = {
            index: {key: _like(parameters[index], value) for key, value in values.items()}
            for index, values in state["state"].items()
        }
        optimizer.load_state_dict({**state, "state": spread})


def _like(parameter: torch.Tensor, value: Any) -> Any:
    """A moment, which has the shape of its parameter, spread as that is; a count as it is."""
    is_moment = isinstance(value, torch.Tensor) and value.shape == parameter.shape
    if not (is_moment and isinstance(parameter, DTensor)):
        return value
    device = parameter.device
    return distribute_tensor(
        value.to(device), parameter.device_mesh, parameter.placements, src_data_rank=None
    )
