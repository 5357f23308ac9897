"""Block-wise `torch.compile`: one graph a block, whatever the rounds."""

from __future__ import annotations

from typing import TypeVar

from rinsc.backends.torch.decoding import HostedModule
from rinsc.backends.torch.module import CompiledModule

Emitted = TypeVar("Emitted", CompiledModule, HostedModule)


def compile_blocks(model: Emitted) -> Emitted:
    """Compile every block of an emitted module in place, and return the module.

    The loop over rounds stays outside, so that rounds which change compile nothing new.
    """
    for name in model.graph.blocks:
        model.get_submodule(name).compile()
    return model
