"""How tools may cut a model: what stays on one device, and how matrices and blocks are sharded."""

from __future__ import annotations

from collections.abc import Mapping

from rinsc.backends.torch.tensor_plan import Side, tensor_plan
from rinsc.errors import LoweringError
from rinsc.graph import BlockGraph
from rinsc.layers import block_weights, trace_programs
from rinsc.layers.weights import LAYERS, TIED

STYLES: Mapping[Side, str] = {"column": "colwise", "row": "rowwise"}


def tp_plan(graph: BlockGraph) -> dict[str, str]:
    """Tensor parallelism, as `tensor_plan` reads it off the layers; nothing where it cannot be."""
    plan: dict[str, str] = {}
    programs = trace_programs(graph.spec)
    for name, block in graph.blocks.items():
        layer, weights = programs.layer[block.kind], block_weights(graph, name)
        try:
            sides = tensor_plan(layer, devices=1)
        except LoweringError:
            return {}
        stack = f"{name}.{LAYERS}.*" if weights.framed else f"{name}.*"
        for node in layer.nodes:
            if node.name in sides:
                place = f"{name}.{TIED}" if weights.is_tied(node) else stack
                plan[f"{place}.{node.name}"] = STYLES[sides[node.name]]
    return plan


def fsdp_plan(graph: BlockGraph) -> dict[str, str]:
    """FSDP2: layers are gathered one by one, for each of their visits anew.

    The rest stays gathered with the root: the head may read the embedding's table.
    """
    plan: dict[str, str] = {}
    for name in graph.blocks:
        framed = block_weights(graph, name).framed
        plan[f"{name}.{LAYERS}.*" if framed else f"{name}.*"] = "free_full_weight"
    return plan
