"""What ``fast`` comes to: the precision and the compiling with which a run ends soonest.

A processor that multiplies bf16 in hardware is twice as fast with it where matrices are large, and
half as fast where they are tiny. So steps of tiny models are measured. Compiling takes up to a
minute, which a short run does not win back.
"""

from __future__ import annotations

import time
from dataclasses import replace

import torch

from rinsc.backends.torch import to_torch
from rinsc.backends.torch.device import autocast
from rinsc.errors import RinscError
from rinsc.formats import TrainingPrecision
from rinsc.graph import build_graph
from rinsc.layers import model_input
from rinsc.ops import at_sizes
from rinsc.spec import ModelSpec
from rinsc.storage.files import read_regular_text
from rinsc.training.config import TrainConfig, config_from_toml
from rinsc.training.devices import Devices, fast_precision, require_compiler
from rinsc.training.run_folder import RunFolder
from rinsc.training.schedules import Depths, most_rounds

TINY_FLOPS = 20_000_000_000  # of a step of one process, below which both precisions are tried
TIMES = 3  # that a step is measured, of which the quickest counts
COMPILING_PAYS = 300  # seconds of training, from which on compiling is won back


def fast_settings(
    spec: ModelSpec, config: TrainConfig, devices: Devices, folder: RunFolder, *, anew: bool
) -> tuple[TrainConfig, str]:
    """The settings of the fastest run, and a note that says what they are; every process calls it.

    A run that was begun goes on with what was chosen then, as its weights depend on it, unless it
    is to begin ``anew``. Raises RinscError for a compiler that was asked for and does not work.
    """
    return devices.on_first(lambda: _chosen(spec, config, devices, None if anew else folder))


def _chosen(
    spec: ModelSpec, config: TrainConfig, devices: Devices, folder: RunFolder | None
) -> tuple[TrainConfig, str]:
    begun = None if folder is None else _begun(folder)
    if begun is not None:
        if begun.compile:
            require_compiler(devices.device)
        config = replace(config, precision=begun.precision, compile=begun.compile)
        return config, f"{_words(config)}, as the run was begun"
    precision, seconds = fast_precision(devices.device), dict[TrainingPrecision, float]()
    shares = config.accumulate * devices.count
    is_tiny = Depths(spec, config).flops(0) <= TINY_FLOPS * shares
    if is_tiny and devices.device.type == "cpu":
        seconds = step_seconds(spec, config, devices, ("fp32", precision))
        precision = min(seconds, key=lambda name: seconds[name])
    all_seconds = seconds.get(precision, float("inf")) * config.accumulate * config.steps
    compiles = config.compile or all_seconds >= COMPILING_PAYS
    if compiles:
        try:
            require_compiler(devices.device)
        except RinscError:
            if config.compile:
                raise
            compiles = False
    config = replace(config, precision=precision, compile=compiles)
    times = ", ".join(f"{name} {1e3 * spent:.0f} ms" for name, spent in seconds.items())
    return config, _words(config) + (f" (a step measured: {times})" if times else "")


def _words(config: TrainConfig) -> str:
    return f"fast: {config.precision}, blocks {'compiled' if config.compile else 'not compiled'}"


def _begun(folder: RunFolder) -> TrainConfig | None:
    """The settings of the run in a folder; None where there is none, or they cannot be read."""
    try:
        return config_from_toml(read_regular_text(folder.config))
    except (OSError, UnicodeDecodeError, RinscError):
        return None


def step_seconds(
    spec: ModelSpec,
    config: TrainConfig,
    devices: Devices,
    precisions: tuple[TrainingPrecision, ...],
) -> dict[TrainingPrecision, float]:
    """Seconds that forward and backward of a share of the batch take, the quickest of a few.

    The model is a fresh one. The precisions take turns.
    """
    graph = build_graph(spec)
    model = to_torch(graph).to(devices.device).train()
    length = min(config.sequence_length, spec.context)
    rows = max(1, config.batch_sequences // (config.accumulate * devices.count))
    port = model_input(spec)
    shape = at_sizes(port.shape, [("batch", rows), ("seq", length)])
    inputs = torch.zeros(shape, device=devices.device)
    inputs = inputs.long() if port.dtype == "int64" else inputs
    rounds = most_rounds(graph, config) or None
    seconds = dict.fromkeys(precisions, float("inf"))
    for turn in range(1 + TIMES):  # the first is a warm-up
        for precision in seconds:
            begun = time.perf_counter()
            with autocast(devices.device, precision):
                outputs = model(inputs, rounds=rounds)
            torch.logsumexp(outputs.float(), -1).mean().backward()  # type: ignore[no-untyped-call]
            if turn:
                spent = time.perf_counter() - begun
                seconds[precision] = min(seconds[precision], spent)
    return seconds
