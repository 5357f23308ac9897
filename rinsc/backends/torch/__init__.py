"""The PyTorch backend: a block graph as readable source, and the module that runs it."""

from rinsc.backends.torch.compile import compile_blocks
from rinsc.backends.torch.emit import emit_source
from rinsc.backends.torch.module import CompiledModule, CompiledTowers, load_source, to_torch
from rinsc.backends.torch.towers import emit_towers
from rinsc.backends.torch.weights import load_weights, save_weights

__all__ = [
    "CompiledModule",
    "CompiledTowers",
    "compile_blocks",
    "emit_source",
    "emit_towers",
    "load_source",
    "load_weights",
    "save_weights",
    "to_torch",
]
