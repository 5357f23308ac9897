"""Whether a checkpoint is of this very run, and what differs where it is not.

A manifest says that files are as they were written. It cannot say that they belong here: a file
that was put there with a manifest of its own, or that another run wrote, is found by its content.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.trainer_pt_utils import safe_globals

from rinsc.backends.torch.pickles import UnpicklingError, check_torch_files
from rinsc.backends.torch.weights import open_weights
from rinsc.errors import CheckpointError, OutputError, Problem, RinscError
from rinsc.graph import BlockGraph
from rinsc.graph.differences import model_differences
from rinsc.spec import ModelSpec, model_spec
from rinsc.spec.reading import is_of
from rinsc.storage.files import parse_json, read_regular_text
from rinsc.training.checkpoint import (
    OPTIMIZER,
    RNG_STATES,
    SCHEDULER,
    WEIGHTS,
    Checkpoint,
    is_of_its_step,
)
from rinsc.training.config import TrainConfig, config_from_toml
from rinsc.training.optimizer import build_optimizer, each_optimizer, each_state
from rinsc.training.run_folder import RunFolder, already_finished
from rinsc.training.warm_start import Source, recorded_source, same_source

# What reading a damaged or foreign file with ``weights_only`` raises, and using what it holds.
SETTINGS = {"weight_decay", "betas", "eps", "momentum", "nesterov"}  # of a group, from the config
READING = (OSError, EOFError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)


def why_unusable(
    checkpoint: Checkpoint, model: nn.Module, graph: BlockGraph, config: TrainConfig
) -> str | None:
    """What of a checkpoint is not of a run of ``model``, in words; None where all of it is.

    ``model`` is the model of transformers around the emitted module of ``graph``. Files are mapped,
    not read as a whole. Of a checkpoint in shards only the random numbers are looked at.
    """
    state = checkpoint.trainer_state.name
    checks: dict[str, Callable[[Path], bool]] = {state: lambda path: is_of_its_step(checkpoint)}
    if not checkpoint.is_sharded:
        checks[WEIGHTS] = lambda path: _are_weights(path, model)
        checks[OPTIMIZER] = lambda path: _are_moments(path, model, graph, config)
        checks[SCHEDULER] = lambda path: _load(path)["last_epoch"] == checkpoint.step
    checks |= {path.name: _is_rng_state for path in checkpoint.path.glob(RNG_STATES)}
    try:
        check_torch_files(checkpoint.path)
    except RinscError as error:
        return error.message
    for name, holds in checks.items():
        try:
            if holds(checkpoint.path / name):
                continue
        except (*READING, RinscError, UnpicklingError):
            pass
        return f"{name} is damaged or of another run"
    return None


def _load(path: Path) -> Any:
    """What ``torch.save`` wrote: tensors and plain values, never code."""
    with safe_globals():  # type: ignore[no-untyped-call]
        return torch.load(path, weights_only=True, map_location="cpu", mmap=True)


def _are_weights(path: Path, model: nn.Module) -> bool:
    """Every tensor of the model, of its shape; one that is tied may stand there once."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    with open_weights(path) as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    storages = {name: tensor.data_ptr() for name, tensor in model.state_dict().items()}
    there = {storages[name] for name in found if name in storages}
    return all(own.get(name) == shape for name, shape in found.items()) and all(
        storages[name] in there for name in own.keys() - found.keys()
    )


def _are_moments(path: Path, model: nn.Module, graph: BlockGraph, config: TrainConfig) -> bool:
    """The same groups of parameters, and for each a state of its shape."""
    inner = model.get_submodule("model")
    optimizers = each_optimizer(build_optimizer(inner, graph, config))
    states = each_state(_load(path))
    if len(states) != len(optimizers):
        return False
    for optimizer, state in zip(optimizers, states, strict=True):
        own = [dict(group) for group in optimizer.param_groups]
        places = {
            index: parameter
            for group, mine in zip(state["param_groups"], own, strict=True)
            for index, parameter in zip(group["params"], mine["params"], strict=True)
        }
        optimizer.load_state_dict({"state": {}, "param_groups": state["param_groups"]})
        if any(
            group[key] != mine[key]
            for group, mine in zip(optimizer.param_groups, own, strict=True)
            for key in SETTINGS & mine.keys()
        ):
            return False
        if not state["state"] or not all(
            _fits(values, places[index]) for index, values in state["state"].items()
        ):
            return False
    return True


def _fits(values: Mapping[str, Any], parameter: torch.Tensor) -> bool:
    """Moments in the shape of their parameter, and a count."""
    shapes = {
        tuple(value.shape) if isinstance(value, torch.Tensor) else () for value in values.values()
    }
    return bool(values) and tuple(parameter.shape) in shapes <= {(), tuple(parameter.shape)}


def _is_rng_state(path: Path) -> bool:
    """Whether each generator takes its state; those of the process are not touched."""
    states = _load(path)
    random.Random().setstate(states["python"])
    np.random.RandomState().set_state(states["numpy"])
    torch.Generator().set_state(states["cpu"])
    return True


def require_same_run(
    folder: RunFolder,
    spec: ModelSpec,
    config: TrainConfig,
    data_record: Mapping[str, object],
    source: Source | None = None,
) -> None:
    """Raises CheckpointError where the run was begun with another model, settings, text or source.

    There is one problem for each setting. A folder in which nothing was begun takes anything.
    """
    model = _begun_with(folder.model_spec, "model")
    if model is not None and not is_of(model, spec):
        raise _of_another_model(model_spec(folder.model_spec), spec, folder.model_spec)
    _require_same_settings(folder.config, config)
    if folder.config.exists():
        difference = difference_of_sources(folder, source)
        if difference is not None:
            hint = "give the same --from, choose another folder, or use --overwrite"
            place = str(folder.source)
            raise CheckpointError("other-source", difference, place=place, hint=hint)
    begun, now = _begun_record(folder.data_record), parse_json(json.dumps(data_record))
    for key, what in (("corpus", "text"), ("tokenizer", "tokenizer")):
        if begun is not None and begun.get(key) != now.get(key):
            raise _of_another(what, folder.data_record)


def difference_of_sources(folder: RunFolder, source: Source | None) -> str | None:
    """How the weights that the run was begun with differ from ``source``; None where they are it.

    Raises CheckpointError where the record is damaged.
    """
    return same_source(recorded_source(folder), None if source is None else source.record)


def another_run(
    folder: RunFolder, spec: ModelSpec, config: TrainConfig, source: Source | None = None
) -> OutputError:
    """The error of `check_run_folder` for a finished run, with how it differs from this one."""
    problems = [already_finished(folder)]
    try:
        require_same_run(folder, spec, config, _begun_record(folder.data_record) or {}, source)
    except CheckpointError as error:
        problems += [replace(each, hint=None) for each in error.problems]
    return OutputError.of(*problems)


def _require_same_settings(path: Path, config: TrainConfig) -> None:
    text = _begun_with(path, "settings")
    if text is None:
        return
    begun = config_from_toml(text, place=str(path))
    problems = [
        Problem(
            code="other-settings",
            message=f"'{key}' is {getattr(config, key)!r}; the run was begun with {old!r}",
            place=f"{path}: {key}",
            hint="go on with the settings of that run, choose another folder, or use --overwrite",
        )
        for key, old in vars(begun).items()
        if getattr(config, key) != old
    ]
    if problems:
        raise CheckpointError.of(*problems)


def _begun_record(path: Path) -> Mapping[str, object] | None:
    """The record of the text that the run was begun with."""
    text = _begun_with(path, "text")
    try:
        record = None if text is None else dict(parse_json(text))
    except (TypeError, ValueError):
        raise _cannot_read("text", path) from None
    return record


def _begun_with(path: Path, what: str) -> str | None:
    """What a file of the run says; None where there is none."""
    if not path.exists():
        return None
    try:
        return read_regular_text(path)
    except (OSError, UnicodeDecodeError):
        raise _cannot_read(what, path) from None


def _cannot_read(what: str, path: Path) -> CheckpointError:
    message = f"cannot read the {what} that the run was begun with"
    hint = "restore the file, or begin again with another folder"
    return CheckpointError("cannot-read", message, place=str(path), hint=hint)


def _of_another(what: str, path: Path) -> CheckpointError:
    message = f"this run was begun with another {what}"
    hint = f"go on with the {what} of that run, choose another folder, or use --overwrite"
    return CheckpointError("foreign-checkpoint", message, place=str(path), hint=hint)


def _of_another_model(begun: ModelSpec, now: ModelSpec, path: Path) -> CheckpointError:
    message = f"this run was begun with '{begun.text}', and '{now.text}' is another model: "
    message += "; ".join(model_differences(begun, now))
    hint = "go on with the model of that run, choose another run folder, or use --overwrite"
    return CheckpointError("foreign-checkpoint", message, place=str(path), hint=hint)
