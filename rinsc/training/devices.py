"""Where a run trains: processes and devices, how fast they are, and whether it fits there.

What ``fast`` comes to is the precision and the compiling with which a run ends soonest. A processor
that multiplies bf16 in hardware is twice as fast with it where matrices are large, and half as fast
where they are tiny. So steps of tiny models are measured. Compiling takes up to a minute, which a
short run does not win back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from rinsc.backends.torch import to_torch
from rinsc.backends.torch.device import autocast, no_device, usable_device
from rinsc.backends.torch.memory import TrainingStep, require_training_memory
from rinsc.backends.torch.parallel import Recursed, parallelize
from rinsc.backends.torch.processes import Result, on_first
from rinsc.cost.flops import length_in_tower
from rinsc.errors import RinscError, UsageError, plural, setting
from rinsc.formats import FORMATS, TrainingPrecision
from rinsc.graph import build_graph
from rinsc.graph.towers_graph import rounds_of, towers_of
from rinsc.layers import model_input
from rinsc.objectives import Data, objective
from rinsc.ops import at_sizes
from rinsc.spec import ModelSpec
from rinsc.spec.towers import AnySpec
from rinsc.storage.files import read_regular_text
from rinsc.training.budget import check_settings
from rinsc.training.config import TrainConfig, config_from_toml
from rinsc.training.run_folder import RunFolder
from rinsc.training.schedules import Depths, most_rounds

_LAUNCH = "start the processes with: torchrun --nproc-per-node 8 -m rinsc train ..."


@dataclass(frozen=True)
class Devices:
    """The device of this process, the number of all, and whether the model is sharded over them."""

    device: torch.device
    count: int = 1
    rank: int = 0
    shard: bool = False
    recursed: Recursed = "pin"

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def spread(self, model: nn.Module) -> nn.Module:
        """The model over all devices: sharded (FSDP2), or a copy on each (DDP)."""
        if self.count == 1:
            return model
        names = ("shard",) if self.shard else ("replicate",)
        mesh = init_device_mesh(self.device.type, (self.count,), mesh_dim_names=names)
        return parallelize(model, mesh, recursed=self.recursed)

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a number over all processes."""
        if self.count > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of a number over all processes."""
        return self.total(value) / self.count if self.count > 1 else value

    @contextmanager
    def gradients_kept_apart(self, model: nn.Module) -> Iterator[None]:
        """Within, the gradients of what `spread` gave stay with each process: those of the last
        part of a batch bring them together."""
        if isinstance(model, DistributedDataParallel):
            with model.no_sync():
                yield
        elif isinstance(model, FSDPModule):
            model.set_requires_gradient_sync(False)
            try:
                yield
            finally:
                model.set_requires_gradient_sync(True)
        else:
            yield

    def on_first(self, action: Callable[[], Result]) -> Result:
        """Do something in the first process while the others wait; its result or error is all's."""
        return on_first(action)

    @contextmanager
    def lost_processes(self) -> Iterator[None]:
        """What a collective raises where another process is gone becomes a RinscError."""
        try:
            yield
        except RuntimeError as error:
            lost = isinstance(error, dist.DistError) or "Connection" in str(error)
            if self.count == 1 or not lost:
                raise
            message = "another process of this run is gone"
            hint = "see what it said; the same command goes on from the last checkpoint"
            raise RinscError("process-lost", message, hint=hint) from error

    def wait(self) -> None:
        if self.count > 1:
            dist.barrier()


def find_devices(
    name: Literal["auto", "cpu", "cuda"], *, shard: bool = False, recursed: Recursed = "pin"
) -> Devices:
    """The devices of this process; joins the others where torchrun started several.

    Raises UsageError for a GPU that is not there, for sharding over one process, and where what
    started the processes does not say how they meet; RinscError where they do not meet.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise no_device(name, also=())
    kind = "cuda" if has_gpu and name != "cpu" else "cpu"
    count = _number_from_torchrun("WORLD_SIZE", 1)
    if count <= 1:
        if shard:
            message = f"{setting('shard')} needs several processes to spread over, and there is one"
            raise UsageError("one-process", message, hint=_LAUNCH)
        return Devices(torch.device(kind))
    device = _own_gpu() if kind == "cuda" else torch.device(kind)
    if not dist.is_initialized():
        _join("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    return Devices(device, count, dist.get_rank(), shard, recursed)


def _own_gpu() -> torch.device:
    local, gpus = _number_from_torchrun("LOCAL_RANK", 0), torch.cuda.device_count()
    if local >= gpus:
        message = f"process {local} of this machine has no GPU of its own: there are {gpus}"
        hint = f"start at most {gpus} processes a machine"
        raise UsageError("no-gpu", message, hint=hint)
    device = torch.device("cuda", local)
    torch.cuda.set_device(device)
    return device


def _number_from_torchrun(name: str, default: int) -> int:
    """A number that torchrun tells each process."""
    text = os.environ.get(name, str(default))
    if not text.isdecimal():
        message = f"{name} is '{text:.40}', which is no number"
        raise UsageError("bad-launch", message, hint=f"unset it, or {_LAUNCH}")
    return int(text)


def _join(backend: str) -> None:
    """Meet the other processes."""
    try:
        dist.init_process_group(backend)
        on_first(lambda: None)  # they wait for each other from here on: none can have failed yet
    except (ValueError, OverflowError) as error:
        message = f"the processes cannot meet: {str(error).splitlines()[0]:.200}"
        hint = f"unset WORLD_SIZE for one process, or {_LAUNCH}"
        raise UsageError("bad-launch", message, hint=hint) from error
    except dist.DistError as error:
        message = f"the processes do not meet: {str(error).splitlines()[0]:.200}"
        hint = "see that all of them were started, and can reach MASTER_ADDR at MASTER_PORT"
        raise RinscError("process-lost", message, hint=hint) from error


def require_compiler(device: torch.device | str) -> None:
    """Compile one small function; raises RinscError where that fails.

    Above all it fails without a C++ compiler, which PyTorch does not bring along.
    """
    from torch._dynamo.exc import TorchDynamoException

    try:
        torch.compile(torch.square)(torch.ones(8, device=device))
    except TorchDynamoException as error:
        message = f"torch.compile does not work here: {str(error).splitlines()[0]:.200}"
        hint = f"install a C++ compiler, or train without {setting('compile')}"
        raise RinscError("cannot-compile", message, hint=hint) from None


SIZES = {"cuda": 8192, "cpu": 1024}
SECONDS = 0.15  # spent on measuring, at least


@lru_cache(maxsize=8)
def matrix_peak_flops(device: torch.device, precision: TrainingPrecision) -> float:
    """Measured FLOPs per second of a large square matrix product, the best of several."""
    size = SIZES.get(device.type, 1024)
    dtype = getattr(torch, FORMATS[precision].torch)
    generator = torch.Generator(device).manual_seed(0)  # the random state of the run is its own
    first, second = (
        torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2)
    )
    torch.matmul(first, second)
    best, spent = float("inf"), 0.0
    while spent < SECONDS:
        _finish(device)
        begun = time.perf_counter()
        torch.matmul(first, second)
        _finish(device)
        seconds = time.perf_counter() - begun
        best, spent = min(best, seconds), spent + seconds
    return 2 * size**3 / best


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def fast_precision(device: torch.device | str) -> TrainingPrecision:
    """``bf16`` where the device multiplies it in hardware, else ``fp32``, which is faster there."""
    device = usable_device(device)
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        features = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return "bf16" if features.get("avx512_bf16") or features.get("amx_bf16") else "fp32"
    return "fp32"


ALONE = Devices(torch.device("cpu"))


def check_fits(
    spec: AnySpec,
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


def check_devices(spec: AnySpec, config: TrainConfig, devices: Devices = ALONE) -> None:
    """Raises UsageError where the batch cannot be shared evenly by the processes, and LoweringError
    where a device has too little memory for its part of a step."""
    shares = config.accumulate * devices.count
    if config.batch_sequences % shares:
        sequences = plural(config.batch_sequences, "sequence")
        message = f"{sequences} cannot be split into {shares} equal parts"
        batch, parts_of = setting("batch_sequences", "--batch"), setting("accumulate")
        hint = f"make {batch} a multiple of the processes times {parts_of}"
        raise UsageError("uneven-batch", message, hint=hint)
    graph = build_graph(spec)
    rounds = rounds_of(graph, most_rounds(graph, config) or None)
    for name, tower in towers_of(graph).items():
        one_step = TrainingStep(
            tower,
            length_in_tower(tower.spec, config.sequence_length),
            config.batch_sequences,
            rounds=rounds[name],
            precision=config.precision,
            checkpointing=config.checkpointing,
            accumulate=config.accumulate,
            processes=devices.count,
            shard=devices.shard,
            pins=devices.recursed == "pin",
        )
        require_training_memory(one_step, devices.device)


TINY_FLOPS = 20_000_000_000  # of a step of one process, below which both precisions are tried
TIMES = 3  # that a step is measured, of which the quickest counts
COMPILING_PAYS = 300  # seconds of training, from which on compiling is won back


def fast_settings(
    spec: AnySpec, config: TrainConfig, devices: Devices, folder: RunFolder, *, anew: bool
) -> tuple[TrainConfig, str]:
    """The settings of the fastest run, and a note that says what they are; every process calls it.

    A run that was begun goes on with what was chosen then, as its weights depend on it, unless it
    is to begin ``anew``. Raises RinscError for a compiler that was asked for and does not work.
    """
    return devices.on_first(lambda: _chosen(spec, config, devices, None if anew else folder))


def _chosen(
    spec: AnySpec, config: TrainConfig, devices: Devices, folder: RunFolder | None
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
    if is_tiny and devices.device.type == "cpu" and isinstance(spec, ModelSpec):
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
