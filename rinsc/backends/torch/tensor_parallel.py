"""The matrices of a module's layers, each device with its part of them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    ParallelStyle,
    RowwiseParallel,
    parallelize_module,
)

from rinsc.backends.torch.tensor_plan import Side, tensor_plan
from rinsc.graph import BlockGraph
from rinsc.layers import block_weights, trace_programs

STYLES: Mapping[Side, type[ParallelStyle]] = {"column": ColwiseParallel, "row": RowwiseParallel}


def cut_matrices(emitted: nn.Module, graph: BlockGraph, mesh: DeviceMesh) -> None:
    """Replace the matrices of all blocks by each device's part of them, in place.

    ``mesh`` has one dimension. All else stays whole on every device.
    """
    programs = trace_programs(graph.spec)
    plans = {kind: tensor_plan(layer, mesh.size()) for kind, layer in programs.layer.items()}
    paths: dict[str, ParallelStyle] = {}
    for name, block in graph.blocks.items():
        where, plan = block_weights(graph, name), plans[block.kind]
        for index in range(block.layers):
            for node in programs.layer[block.kind].nodes:
                if node.name in plan:
                    paths[where.prefix(index, node) + node.name] = STYLES[plan[node.name]]()
    parallelize_module(emitted, mesh, paths, src_data_rank=None)
