"""The PyTorch backend: a block graph as readable source, and the module that runs it."""

from rinsc.backends.torch.compile import compile_blocks
from rinsc.backends.torch.emit import emit_source
from rinsc.backends.torch.module import CompiledModule, load_source, to_torch
from rinsc.backends.torch.weights import load_weights, save_weights

__all__ = [
    "CompiledModule",
    "compile_blocks",
    "emit_source",
    "load_source",
    "load_weights",
    "save_weights",
    "to_torch",
]
