"""Checkpoints: everything a run needs to go on as if it had never stopped, in one safe file.

A checkpoint is one safetensors file: weights, optimizer state and random state as tensors, the rest
as JSON in its metadata, with a sha256 over it all. One file is replaced in one step, so there is
always one whole checkpoint; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rinsc.errors import CheckpointError, Problem
from rinsc.files import atomic_path

FORMAT = "rinsc-training-checkpoint-1"

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Position:
    """How far a run is: finished steps, the seconds spent on them, the last step's loss."""

    step: int
    seconds: float
    loss_nats: float


def save_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    position: Position,
    identity: Mapping[str, str],
) -> None:
    """Replace the checkpoint at ``path``; raises OutputError.

    ``identity`` says what the run is (model, settings, text); resuming demands the same.
    """
    from safetensors.torch import save_file

    tensors = {
        name: tensor.detach().contiguous().cpu() for name, tensor in _tensors(model, optimizer)
    }
    state = json.dumps({"position": asdict(position), "identity": dict(identity)})
    metadata = {"format": FORMAT, "state": state, "sha256": _digest(tensors, state)}
    with atomic_path(path) as part:
        save_file(tensors, part, metadata)


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, identity: Mapping[str, str]
) -> Position:
    """Put model, optimizer and random state back as they were; returns the position.

    Raises CheckpointError, before anything is changed, where the file is cut short, altered, or of
    another model, configuration or text.
    """
    tensors, state = _read(path)
    for what, value in identity.items():
        if state["identity"].get(what) != value:
            raise _error(
                "foreign-checkpoint",
                f"this checkpoint belongs to a run with another {what}",
                path,
                hint=f"resume with the {what} of that run, or choose another run folder",
            )
    weights = _under(tensors, "model.")
    moments = _under(tensors, "optimizer.")
    _check_same_tensors(weights, model.state_dict(), path)
    model.load_state_dict(weights)
    _load_optimizer(optimizer, _parameter_names(model, optimizer), moments)
    _set_random_state(tensors)
    return Position(**state["position"])


def _tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[tuple[str, torch.Tensor]]:
    """All tensors of a run by name."""
    found = [(f"model.{name}", tensor) for name, tensor in model.state_dict().items()]
    names = _parameter_names(model, optimizer)
    for index, moments in optimizer.state_dict()["state"].items():
        found += [(f"optimizer.{names[index]}:{key}", value) for key, value in moments.items()]
    found.append(("random.cpu", torch.get_rng_state()))
    if torch.cuda.is_available():
        found.append(("random.cuda", torch.cuda.get_rng_state()))
    return found


def _set_random_state(tensors: Tensors) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])


def _parameter_names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of the optimizer's parameters, in the optimizer's own order."""
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    return [name_of[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], moments: Tensors) -> None:
    state: dict[int, Tensors] = {}
    for key, tensor in moments.items():
        name, _, moment = key.rpartition(":")
        state.setdefault(names.index(name), {})[moment] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _read(path: Path) -> tuple[Tensors, dict[str, Any]]:
    """Tensors and state of a whole, unaltered checkpoint file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise _error("no-checkpoint", "there is no checkpoint here", path, "train one first")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise _damaged(path) from error
    if metadata.get("format") != FORMAT:
        hint = "name the checkpoint.safetensors of a run; its weights alone cannot be resumed"
        raise _error("not-a-checkpoint", "this file is not a training checkpoint", path, hint)
    if metadata.get("sha256") != _digest(tensors, metadata.get("state", "")):
        raise _damaged(path)
    return tensors, json.loads(metadata["state"])


def _digest(tensors: Tensors, state: str) -> str:
    digest = hashlib.sha256(state.encode("utf-8"))
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _under(tensors: Tensors, prefix: str) -> Tensors:
    return {n.removeprefix(prefix): tensor for n, tensor in tensors.items() if n.startswith(prefix)}


def _check_same_tensors(found: Tensors, wanted: Tensors, path: Path) -> None:
    """The identity already agrees; this catches a model built otherwise from the same spec."""
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if shapes != {name: tuple(tensor.shape) for name, tensor in wanted.items()}:
        hint = "resume with the model of that run, or choose another run folder"
        raise _error("foreign-checkpoint", "this checkpoint is of another model", path, hint)


def _damaged(path: Path) -> CheckpointError:
    return _error(
        "damaged-checkpoint",
        "the checkpoint is damaged or cut short",
        path,
        hint="restore it from a copy, or delete it to train from the beginning",
    )


def _error(code: str, message: str, path: Path, hint: str) -> CheckpointError:
    return CheckpointError(Problem(code=code, message=message, place=str(path), hint=hint))
