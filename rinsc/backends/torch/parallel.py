"""One model on many devices: replicated, sharded, and with its matrices cut."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd import Variable
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from rinsc.backends.torch.processes import differentiable, refuse_reentrant
from rinsc.backends.torch.tensor_plan import Side, tensor_plan
from rinsc.errors import LoweringError, did_you_mean
from rinsc.graph import BlockGraph, TowersGraph
from rinsc.layers import block_weights, trace_programs

STYLES: Mapping[Side, type[ParallelStyle]] = {"column": ColwiseParallel, "row": RowwiseParallel}


def cut_matrices(emitted: nn.Module, graph: BlockGraph, mesh: DeviceMesh) -> None:
    """Replace the matrices of all blocks by each device's part of them, in place.

    ``mesh`` has one dimension. All else stays whole on every device.
    """
    programs = trace_programs(graph.spec)
    plans = programs.rewritten(lambda _, layer: tensor_plan(layer, mesh.size()))
    paths: dict[str, ParallelStyle] = {}
    for name, block in graph.blocks.items():
        where = block_weights(graph, name)
        for index in range(block.layers):
            plan = plans[name][index]
            for node in programs.layers[name][index].nodes:
                if node.name in plan:
                    paths[where.prefix(index, node) + node.name] = STYLES[plan[node.name]]()
    parallelize_module(emitted, mesh, paths, src_data_rank=None)


Recursed: TypeAlias = Literal["pin", "reshard"]
Unit: TypeAlias = Literal["block", "layer"]

REPLICATE, SHARD, TENSOR = DIMENSIONS = ("replicate", "shard", "tensor")


def parallelize(
    model: nn.Module,
    mesh: DeviceMesh,
    *,
    recursed: Recursed = "pin",
    unit: Unit = "block",
    mixed_precision: MixedPrecisionPolicy | None = None,
) -> nn.Module:
    """Spread a model over the devices of a mesh and return it; build its optimizer afterwards.

    ``model`` is what `to_torch` returns or a model around it, on the mesh's kind of device. Every
    rank gets the weights of the first. The names of the mesh's dimensions say what happens:
    ``replicate`` alone is DDP; ``shard`` is FSDP2, and with ``replicate`` its hybrid form;
    ``tensor`` cuts the matrices of each layer, alone or with ``shard``.

    Each ``unit`` is gathered as a whole, and so is a block that owns more than its layers. Blocks
    that are visited more than once are kept from their first visit until the backward pass is over
    (``pin``), or gathered for every visit (``reshard``). A pass without gradients ends with
    everything sharded. Batches and rounds are the caller's: what stands along ``tensor`` must get
    the same ones. Noise that the model draws is that of each share's rows in the whole batch.

    Raises `LoweringError` for another module than ours, a mesh without devices to spread over or
    with other names, heads that do not divide; the first training pass does where checkpointing is
    reentrant.
    """
    _check_choice("recursed", recursed, get_args(Recursed))
    _check_choice("unit", unit, get_args(Unit))
    sizes = _dimensions(mesh)
    _check_fits(model, mesh, sizes, mixed_precision)
    towers = _towers_of(model)
    if towers:
        return _replicated_towers(model, towers, mesh, sizes)
    emitted, graph = emitted_module(model)
    _copy_from_first(model, mesh, sizes)
    refuse_reentrant(emitted)
    draws: Any = getattr(emitted, "draws", None)
    if hasattr(draws, "replica"):
        draws.replica = _share_of_batch(mesh, sizes)
    if TENSOR in sizes:
        cut_matrices(emitted, graph, _sub_mesh(mesh, TENSOR))
    if SHARD in sizes:
        names = [name for name in (REPLICATE, SHARD) if name in sizes]
        policy = mixed_precision or MixedPrecisionPolicy()
        return _shard(model, _sub_mesh(mesh, *names), recursed, unit, policy)
    if REPLICATE in sizes:
        group, left_out = mesh.get_group(REPLICATE), _may_leave_out(graph)
        return DistributedDataParallel(model, process_group=group, find_unused_parameters=left_out)
    return model


def _towers_of(model: nn.Module) -> list[tuple[nn.Module, BlockGraph]]:
    """The emitted module of each tower, with its graph, in a model of several or around one."""
    for module in model.modules():
        graph = getattr(module, "graph", None)
        if isinstance(graph, TowersGraph):
            return [(module.get_submodule(name), own) for name, own in graph.towers.items()]
    return []


def _replicated_towers(
    model: nn.Module,
    towers: list[tuple[nn.Module, BlockGraph]],
    mesh: DeviceMesh,
    sizes: dict[str, int],
) -> nn.Module:
    """DDP of several towers; raises `LoweringError` for meshes that cut a model."""
    if set(sizes) - {REPLICATE}:
        message = "a model of several towers is copied to each device, and not cut"
        hint = "leave 'shard' out, or name the dimension of the mesh 'replicate'"
        raise LoweringError("several-towers", message, place="mesh", hint=hint)
    _copy_from_first(model, mesh, sizes)
    for tower, _ in towers:
        refuse_reentrant(tower)
        draws: Any = getattr(tower, "draws", None)
        if hasattr(draws, "replica"):
            draws.replica = _share_of_batch(mesh, sizes)
    if REPLICATE not in sizes:
        return model
    left_out = any(map(_may_leave_out, (graph for _, graph in towers)))
    group = mesh.get_group(REPLICATE)
    return DistributedDataParallel(model, process_group=group, find_unused_parameters=left_out)


def _may_leave_out(graph: BlockGraph) -> bool:
    """Every weight takes part in every step, but for a learned start where the first rounds,
    which it is for, are run without gradients."""
    return any(
        loop.options.start == "learned" and loop.options.grad is not None for loop in graph.loops()
    )


def _share_of_batch(mesh: DeviceMesh, sizes: dict[str, int]) -> tuple[int, int]:
    """Which share of the batch this rank has, and of how many: ranks along ``tensor`` have one."""
    share, shares = 0, 1
    for name in (REPLICATE, SHARD):
        if name in sizes:
            share = share * sizes[name] + mesh.get_local_rank(name)
            shares *= sizes[name]
    return share, shares


def emitted_module(model: nn.Module) -> tuple[nn.Module, BlockGraph]:
    """The module whose children are the blocks, in a model of ours or in wrappers around it.

    Raises `LoweringError` where there is none.
    """
    graphs = (getattr(module, "graph", None) for module in model.modules())
    graph = next((graph for graph in graphs if isinstance(graph, BlockGraph)), None)
    for module in model.modules() if graph is not None else ():
        children = dict(module.named_children())
        if graph is not None and all(name in children for name in graph.blocks):
            return module, graph
    message = f"{type(model).__name__} is not a model of rinsc"
    hint = "make the model with to_torch or RinscForCausalLM"
    raise LoweringError("not-our-model", message, hint=hint)


def _shard(
    model: nn.Module,
    mesh: DeviceMesh,
    recursed: Recursed,
    unit: Unit,
    policy: MixedPrecisionPolicy,
) -> nn.Module:
    """FSDP2: blocks or layers, and the rest, with the embedding and its head, in one group."""
    emitted, graph = emitted_module(model)
    repeated = graph.recursed_blocks() if recursed == "pin" else []
    pinned: list[FSDPModule] = []
    for name in graph.blocks:
        for module in _units(emitted, graph, name, unit):
            sharded = fully_shard(module, mesh=mesh, mp_policy=policy)
            if name in repeated:
                sharded.set_reshard_after_forward(False, recurse=False)
                sharded.set_reshard_after_backward(False, recurse=False)
                pinned.append(sharded)
    pinned.append(fully_shard(model, mesh=mesh, mp_policy=policy))  # FSDP2 keeps the root itself
    _reshard_when_done(model, pinned)
    return model


def _units(emitted: nn.Module, graph: BlockGraph, name: str, unit: Unit) -> list[nn.Module]:
    """What is gathered at once of a block.

    A block that owns more than its layers is gathered whole: groups within groups fail in older
    versions of PyTorch where visits are checkpointed.
    """
    where = block_weights(graph, name)
    if unit == "block" or where.framed:
        return [emitted.get_submodule(name)]
    layers = range(where.block.layers)
    return [emitted.get_submodule(where.layer(index).rstrip(".")) for index in layers]


def _reshard_when_done(model: nn.Module, pinned: list[FSDPModule]) -> None:
    """Reshard what is kept after each backward pass, else the next step runs on old weights.

    A pass that no backward pass can follow reshards it at its end.
    """

    def reshard() -> None:
        for module in pinned:
            module.reshard()

    def after_backward(gradient: torch.Tensor) -> None:
        # Queued behind FSDP's own callback, which reduces the last gradients: its hooks on the
        # result come first.
        Variable._execution_engine.queue_callback(reshard)

    def after_forward(module: nn.Module, inputs: Any, result: Any) -> None:
        tensors = differentiable(result)
        for tensor in tensors:
            tensor.register_hook(after_backward)  # type: ignore[no-untyped-call]
        if not tensors:
            reshard()

    model.register_forward_hook(after_forward)


def _copy_from_first(model: nn.Module, mesh: DeviceMesh, sizes: dict[str, int]) -> None:
    """Weights and buffers of the mesh's first rank for all others."""
    for name in sizes:
        group = mesh.get_group(name)
        source = dist.get_global_rank(group, 0)
        for tensor in (*model.parameters(), *model.buffers()):
            dist.broadcast(tensor.detach(), source, group=group)


def _sub_mesh(mesh: DeviceMesh, *names: str) -> DeviceMesh:
    return mesh if mesh.mesh_dim_names == names else mesh[names]


def _dimensions(mesh: object) -> dict[str, int]:
    """Sizes above 1 by name; raises `LoweringError` for a mesh that says nothing to us."""
    example = 'init_device_mesh("cuda", (8,), mesh_dim_names=("shard",))'
    if not isinstance(mesh, DeviceMesh):
        message = f"a mesh is a DeviceMesh, not a {type(mesh).__name__}"
        raise LoweringError("bad-mesh", message, hint=f"make one with {example}")
    names = mesh.mesh_dim_names
    if not names:
        message = "the mesh's dimensions have no names"
        raise LoweringError("bad-mesh", message, hint=f"make one with {example}")
    for name in names:
        if name not in DIMENSIONS:
            message = f"'{name}' is not a dimension of a mesh"
            hint = did_you_mean(name, DIMENSIONS)
            raise LoweringError("bad-mesh", message, place="mesh", hint=hint)
    outer, inner = (
        names.index(dimension) if dimension in names else -1 for dimension in (REPLICATE, SHARD)
    )
    if len(set(names)) < len(names) or (inner != -1 and outer > inner):
        message = f"the dimensions of a mesh are {', '.join(DIMENSIONS)}, once each and so ordered"
        hint = f"make it with mesh_dim_names={tuple(sorted(set(names), key=DIMENSIONS.index))}"
        raise LoweringError("bad-mesh", message, place="mesh", hint=hint)
    sizes = {name: mesh.size(index) for index, name in enumerate(names)}
    if mesh.size() == 1:
        message = "the mesh has one device: there is nothing to spread the model over"
        hint = "start several processes, as with torchrun --nproc-per-node, or leave the mesh out"
        raise LoweringError("one-device", message, place="mesh", hint=hint)
    return {name: size for name, size in sizes.items() if size > 1}


def _check_fits(
    model: nn.Module,
    mesh: DeviceMesh,
    sizes: dict[str, int],
    mixed_precision: MixedPrecisionPolicy | None,
) -> None:
    """Raises `LoweringError` for what cannot be combined."""
    device = next(model.parameters()).device.type
    spread = (FSDPModule, DistributedDataParallel)
    if any(isinstance(module, spread) for module in model.modules()):
        code, message = "already-parallel", "this model is spread over devices already"
        hint = "make a fresh one and parallelize it once"
    elif device != mesh.device_type:
        code, message = "wrong-device", f"the model is on {device}, the mesh on {mesh.device_type}"
        hint = f'move it first: model.to("{mesh.device_type}")'
    elif REPLICATE in sizes and TENSOR in sizes and SHARD not in sizes:
        code, message = "bad-mesh", "matrices that are cut are not replicated by DDP"
        hint = "call the dimension 'shard' in place of 'replicate'"
    elif mixed_precision is not None and SHARD not in sizes:
        code, message = "bad-precision", "mixed_precision is for sharded models"
        hint = "use torch.autocast, or a mesh with a dimension 'shard'"
    else:
        return
    raise LoweringError(code, message, hint=hint)


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        message = f"{name} is not {value!r:.40}"
        hint = did_you_mean(str(value), known)
        raise LoweringError("bad-choice", message, place=name, hint=hint)
