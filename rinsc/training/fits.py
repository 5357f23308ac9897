"""Whether model, text and settings fit each other: everything that can be wrong beforehand."""

from __future__ import annotations

import torch

from rinsc.backends.torch.memory import TrainingStep, require_training_memory
from rinsc.cost.flops import set_rounds
from rinsc.errors import SpecError, UsageError, plural, setting
from rinsc.graph import build_graph
from rinsc.objectives import Data, objective
from rinsc.spec import ModelSpec
from rinsc.training.config import TrainConfig
from rinsc.training.devices import Devices
from rinsc.training.schedules import most_rounds

ALONE = Devices(torch.device("cpu"))


def check_fits(
    spec: ModelSpec,
    data: Data,
    config: TrainConfig,
    devices: Devices = ALONE,
) -> None:
    """Everything that can be wrong before the first step; nothing is allocated.

    Raises what `check_settings` and `check_devices` raise, and what the objective says of data and
    model that do not fit each other.
    """
    check_settings(spec, config)
    objective(config.objective).check_data(spec, data, config)
    check_devices(spec, config, devices)


def check_settings(spec: ModelSpec, config: TrainConfig) -> None:
    """Raises SpecError where the model has other ports or the settings do not fit it, and
    GraphError for rounds that it cannot run or train."""
    objective(config.objective).check_model(spec)
    if config.sequence_length > spec.context:
        message = f"sequence_length {config.sequence_length} is beyond the context {spec.context}"
        hint = "shorten it, or raise context"
        raise SpecError("beyond-context", message, hint=hint)
    graph = build_graph(spec)
    set_rounds(graph, config.rounds)
    for _, rounds in config.rounds_schedule:
        set_rounds(graph, rounds)


def check_devices(spec: ModelSpec, config: TrainConfig, devices: Devices = ALONE) -> None:
    """Raises UsageError where the batch cannot be shared evenly by the processes, and LoweringError
    where a device has too little memory for its part of a step."""
    parts = config.accumulate * devices.count
    if config.batch_sequences % parts:
        message = (
            f"{plural(config.batch_sequences, 'sequence')} cannot be split into {parts} equal parts"
        )
        batch, parts_of = setting("batch_sequences", "--batch"), setting("accumulate")
        hint = f"make {batch} a multiple of the processes times {parts_of}"
        raise UsageError("uneven-batch", message, hint=hint)
    graph = build_graph(spec)
    step = TrainingStep(
        graph,
        config.sequence_length,
        config.batch_sequences,
        rounds=most_rounds(graph, config) or None,
        precision=config.precision,
        checkpointing=config.checkpointing,
        accumulate=config.accumulate,
        processes=devices.count,
        shard=devices.shard,
        pins=devices.recursed == "pin",
    )
    require_training_memory(step, devices.device)
