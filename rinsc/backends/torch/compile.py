"""Block-wise `torch.compile`: one graph a block, whatever the rounds."""

from __future__ import annotations

from torch import nn


def compile_blocks(model: nn.Module) -> nn.Module:
    """Compile every block of a module made by `to_torch` in place, and return the module.

    The loop over rounds stays outside, so that rounds which change compile nothing new.
    """
    for name in model.graph.blocks:  # type: ignore[union-attr]
        block = model.get_submodule(name)
        block.compile()
    return model
