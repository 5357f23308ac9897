"""A training run: a model, a text and settings, into a run folder; begun, or gone on with."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from torch import nn

from rinsc.backends.torch.decoding import compile_blocks
from rinsc.backends.torch.memory import allocation_errors
from rinsc.backends.torch.weight_files import load_weights, save_weights
from rinsc.errors import CheckpointError
from rinsc.graph import BlockGraph
from rinsc.graph.towers_graph import towers_of
from rinsc.layers import weights
from rinsc.objectives import Data, objective
from rinsc.spec import ModelSpec
from rinsc.spec.towers import AnySpec
from rinsc.storage.files import file_digest, write_atomically
from rinsc.training.checkpoint import Checkpoint, latest_whole, remove_checkpoints
from rinsc.training.config import TrainConfig
from rinsc.training.devices import Devices, check_fits, matrix_peak_flops
from rinsc.training.healing import check_tokens, follow, freeze_all_but_repeats, open_teacher
from rinsc.training.loop import Measuring, StopOnSignal, TrainingLoop
from rinsc.training.metrics import (
    Metrics,
    MetricsLog,
    Observer,
    is_due,
    metrics_from_json,
    open_trackers,
    read_metrics,
    resume_metrics,
)
from rinsc.training.result import TrainResult, result_facts, save_trained
from rinsc.training.resuming import require_same_run
from rinsc.training.run_folder import (
    RunFolder,
    overwriting,
    write_inputs,
    write_pieces,
    write_result,
)
from rinsc.training.schedules import Depths, schedule_note
from rinsc.training.state import TrainableModel, why_unusable
from rinsc.training.warm_start import (
    Source,
    Takeover,
    recorded_source,
    require_initial_weights,
    take_weights,
    token_rows,
)

FINAL_TOKENS = 1 << 22  # of held-out text: some 16 MB; a tenth of a large corpus takes too long


class CheckpointWarning(UserWarning):
    """A checkpoint cannot be used, and an earlier one is."""


class ScheduleWarning(UserWarning):
    """The learning rate does not go where the settings say."""


class StoppedError(Exception):
    """The run was asked to stop; its checkpoint of ``step`` is written."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after step {step}, with a checkpoint: train again to go on")
        self.step = step


@allocation_errors()
def train_module(
    model: TrainableModel,
    spec: AnySpec,
    corpus: Data,
    config: TrainConfig,
    folder: RunFolder,
    *,
    observer: Observer | None = None,
    resume: bool = False,
    devices: Devices | None = None,
    trackers: tuple[str, ...] = (),
    source: Source | None = None,
    report: Callable[[Source, Takeover], None] = lambda source, takeover: None,
) -> TrainResult:
    """Train ``model`` in place and keep everything about it in ``folder``.

    With a ``source`` it begins with the weights of another run (see `warm_start`), block by block,
    and tells ``report`` what became of them. The folder has a copy, so that a resumed run does not
    read the source again.

    With ``resume`` the run goes on from the folder's last whole checkpoint, where there is one, to
    the very weights that an unbroken run on the CPU ends with. With several ``devices`` every
    process calls it, and the first one writes. Raises SpecError or DataError where model, text and
    settings do not fit each other, CheckpointError for another model, text or settings than those
    that the run was begun with and where no checkpoint is whole, LoweringError where memory is too
    small, `StoppedError` after a signal, and RinscError, with the last checkpoint kept, where the
    loss stops being finite.
    """
    devices = devices or Devices(next(model.parameters()).device)
    teacher = open_teacher(config, spec)
    if teacher is not None:
        check_tokens(teacher, corpus.record)
        follow(model, teacher.model(devices.device), config.heal_weight)
    if config.learns == "repeats":
        freeze_all_but_repeats(model.model)
    if resume:
        require_same_run(folder, spec, config, corpus.record, source)
    check_fits(spec, corpus, config, devices)
    note = schedule_note(config)
    if note is not None and devices.is_first:
        warnings.warn(note, ScheduleWarning, stacklevel=3)
    torch.manual_seed(config.seed)
    start = devices.on_first(lambda: _start(folder, model, config)) if resume else None
    if start is None:
        if config.init_depth == "stored":
            for name, tower in towers_of(model.model.graph).items():
                scale_residuals(model.model.get_submodule(name), tower)
        if source is not None:
            source = _begin_with(model, spec, source, corpus.record, folder, devices, report)
    devices.on_first(lambda: _begin(folder, spec, config, corpus.record, start, source))
    model.set_checkpointing(config.checkpointing)
    if config.compile:
        compile_blocks(model.model)
    return _run(model, spec, corpus, config, folder, observer, devices, trackers, start)


def _run(
    model: TrainableModel,
    spec: AnySpec,
    corpus: Data,
    config: TrainConfig,
    folder: RunFolder,
    observer: Observer | None,
    devices: Devices,
    trackers: tuple[str, ...],
    start: Checkpoint | None,
) -> TrainResult:
    trained_for = objective(config.objective)
    examples = trained_for.examples(corpus, config)
    depths, held_out = Depths(spec, config), trained_for.held_out(corpus, config)
    before, first_step = _metrics_at(folder, start), 0 if start is None else start.step
    observer = observer if devices.is_first else None
    stop, silent = StopOnSignal(), not devices.is_first
    facts = {"signature": spec.text, **vars(config)}
    logged_by = open_trackers(() if silent else trackers, folder.path, facts)
    with stop.installed(), MetricsLog(folder.metrics, logged_by, silent=silent) as log:
        loop = TrainingLoop(
            *(model, trained_for, examples, config, folder, devices, depths, stop, start)
        )
        loop.loss_nats = math.nan if before is None else before.loss_nats
        measuring = Measuring(
            *(loop, trained_for, held_out, log, observer),
            peak_flops=matrix_peak_flops(devices.device, config.precision) * devices.count,
            seconds=0.0 if before is None else before.seconds,
            training_flops=depths.flops_until(first_step),
        )
        if observer is not None:
            observer.started(config, first_step)
        loop.run(measuring)
    if loop.step < config.steps:
        raise StoppedError(loop.step)
    most_windows = max(1, FINAL_TOKENS // config.sequence_length)
    text = held_out.spread(most_windows)
    quality = trained_for.measure(
        *(loop.model, text),
        rounds=config.evaluation_rounds,
        precision=config.precision,
    )
    result = TrainResult(
        steps=config.steps,
        tokens=config.tokens,
        epochs=config.steps * config.batch_sequences / len(examples),
        training_flops=measuring.training_flops,
        loss_nats=loop.loss_nats,
        quality=quality.figures,
        seconds=measuring.seconds,
        held_out=held_out.part(most_windows),
        held_out_windows=len(text),
        held_out_bytes=quality.extent.get("bytes"),
        objective=config.objective,
    )
    save_trained(model, folder, devices)
    devices.on_first(lambda: folder.initial_weights.unlink(missing_ok=True))
    facts = result_facts(spec, config, result)
    begun = recorded_source(folder)
    if begun is not None:
        facts["source"] = {key: begun[key] for key in ("path", "step", "training_flops")}
    devices.on_first(lambda: write_pieces(folder, quality.pieces))
    devices.on_first(lambda: write_result(folder, facts))
    if observer is not None:
        observer.finished(result)
    return result


def _start(folder: RunFolder, model: TrainableModel, config: TrainConfig) -> Checkpoint | None:
    """Where the run goes on: the last whole checkpoint with the state of this very run."""
    reasons: dict[str, str] = {}

    def is_usable(checkpoint: Checkpoint) -> bool:
        reason = why_unusable(checkpoint, cast(nn.Module, model), model.model.graph, config)
        if reason is not None:
            reasons[checkpoint.path.name] = f" ({reason})"
        return reason is None

    usable, damaged = latest_whole(folder.path, is_usable)
    paths = [checkpoint.path.name for checkpoint in damaged]
    names = ", ".join(f"{name}{reasons.get(name, '')}" for name in paths)
    if usable is None and damaged:
        message = f"no checkpoint of this run is whole: {names}"
        hint = f"begin again with {overwriting()}, or restore the files"
        raise CheckpointError("damaged-checkpoint", message, place=str(folder.path), hint=hint)
    if usable is not None and damaged:
        message = f"{names} is damaged: the run goes on from {usable.path.name}"
        warnings.warn(message, CheckpointWarning, stacklevel=2)
    return usable


def _begin_with(
    model: TrainableModel,
    spec: AnySpec,
    source: Source,
    data_record: Mapping[str, Any],
    folder: RunFolder,
    devices: Devices,
    report: Callable[[Source, Takeover], None],
) -> Source:
    """Put the weights of the source into ``model``: from the folder's own copy where it has one.

    Returns the source with what was taken in its record. Every process calls it.
    """
    if source.run is None:
        require_initial_weights(folder, source)
        load_weights(model.model, folder.initial_weights)
        return source
    assert isinstance(spec, ModelSpec)  # towers begin with fresh weights
    rows = token_rows(source, spec, data_record, folder)
    takeover = take_weights(model.model, model.model.graph, source.run, rows)
    if devices.is_first:
        report(source, takeover)

    def keep() -> str:
        save_weights(model.model, folder.initial_weights)
        return file_digest(folder.initial_weights)

    digest = {"initial_sha256": devices.on_first(keep)}
    return dataclasses.replace(source, record={**source.record, **digest, **takeover.facts()})


def _begin(
    folder: RunFolder,
    spec: AnySpec,
    config: TrainConfig,
    record: Mapping[str, object],
    start: Checkpoint | None,
    source: Source | None,
) -> None:
    """The run's inputs on disk, and its metrics as they were at the start."""
    if start is None:
        remove_checkpoints(folder.path)
        write_inputs(folder, spec, config, record, None if source is None else source.record)
        write_atomically(folder.metrics, "")
    else:
        measured = _measured_at(start)
        is_logged = measured is not None and is_due(config, measured)
        resume_metrics(folder.metrics, start.step, measured if is_logged else None)


def _measured_at(start: Checkpoint) -> Metrics | None:
    """What the checkpoint says of its step; None in those of rinsc 0.4.0."""
    try:
        return metrics_from_json(start.metrics.read_bytes())
    except OSError:
        return None


def _metrics_at(folder: RunFolder, start: Checkpoint | None) -> Metrics | None:
    """What is known of the last step before: from the checkpoint, or the last that was logged."""
    if start is None:
        return None
    measured = _measured_at(start)
    logged = read_metrics(folder.metrics)
    return measured or max(logged, key=lambda metrics: metrics.step, default=None)


@torch.no_grad()
def scale_residuals(module: nn.Module, graph: BlockGraph) -> None:
    """Give the weights that write to the state the spread that stored layers alone would ask for.

    An emitted module divides their deviation by the root of the writes that a pass executes; a
    model without repeats has as many writes as layers are stored.
    """
    executed = sum(
        visits * graph.blocks[name].layers for name, visits in graph.visit_counts().items()
    )
    stored = sum(block.layers for block in graph.blocks.values())
    for name, param in weights(graph):
        if param.init == "residual":
            module.get_parameter(name).mul_(math.sqrt(executed / stored))
