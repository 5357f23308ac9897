"""The names of the PyTorch backend, and where each is from."""

from rinsc.backends.torch.decoding import cached_module as cached_module
from rinsc.backends.torch.decoding import compile_blocks as compile_blocks
from rinsc.backends.torch.emit import emit_source as emit_source
from rinsc.backends.torch.module import CompiledModule as CompiledModule
from rinsc.backends.torch.module import CompiledTowers as CompiledTowers
from rinsc.backends.torch.module import load_source as load_source
from rinsc.backends.torch.module import to_torch as to_torch
from rinsc.backends.torch.parallel import parallelize as parallelize
from rinsc.backends.torch.sharded_checkpoint import full_state_dict as full_state_dict
from rinsc.backends.torch.sharded_checkpoint import load_sharded as load_sharded
from rinsc.backends.torch.sharded_checkpoint import save_sharded as save_sharded
from rinsc.backends.torch.towers_source import emit_towers as emit_towers
from rinsc.backends.torch.weight_files import load_weights as load_weights
from rinsc.backends.torch.weight_files import save_weights as save_weights

__all__: list[str]
