"""Where weights start that no file holds, and the tables that none ever holds."""

from __future__ import annotations

from collections.abc import Callable

import torch

from rinsc.backends.torch.hosting import HostedModule as Model

MADE = "_is_hf_initialized"  # the flag by which transformers knows a weight that has its value


def flag_made(module: Model) -> None:
    """The emitted module has made its weights, but on no device."""
    for parameter in module.parameters():
        if not parameter.is_meta:
            setattr(parameter, MADE, True)


def is_made(parameter: torch.Tensor) -> bool:
    """Whether a weight has its value, made or loaded."""
    return bool(getattr(parameter, MADE, False))


def make_missing(module: Model, new_module: Callable[[], Model]) -> None:
    """Give weights that a load has left empty their first values, and make the tables again."""
    device = next(module.parameters()).device
    with torch.device(device):
        module.reset_tables()
        parameters = module.named_parameters()
        missing = [name for name, parameter in parameters if not is_made(parameter)]
        fresh = dict(new_module().named_parameters()) if missing else {}
    for name in missing:
        module.get_parameter(name).data.copy_(fresh[name])


def layer_classes(module: Model, stacks: dict[str, str]) -> list[str]:
    """Names of the classes of layers, which stand below the patterns ``A.*``."""
    found = (module.get_submodule(pattern.removesuffix(".*")) for pattern in stacks)
    return sorted({type(layer).__name__ for stack in found for layer in stack.children()})
