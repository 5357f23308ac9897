"""Block-wise `torch.compile`: one graph a block, whatever the rounds."""

from __future__ import annotations

from rinsc.backends.torch.module import CompiledModule


def compile_blocks(model: CompiledModule) -> CompiledModule:
    """Compile every block of a module made by `to_torch` in place, and return the module.

    The loop over rounds stays outside, so that rounds which change compile nothing new.
    """
    for name in model.graph.blocks:
        model.get_submodule(name).compile()
    return model
