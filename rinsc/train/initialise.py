"""How weights start, where the settings ask for another start than the module's own."""

from __future__ import annotations

import math

import torch
from torch import nn

from rinsc.graph import BlockGraph
from rinsc.layers import weights


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
