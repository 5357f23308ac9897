"""Where weights start that no file holds, and the tables that none ever holds."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

from rinsc.backends.hf.facts import changed_config, damaged_weights
from rinsc.backends.torch.device import TableKeeper as Model
from rinsc.storage.weights_digest import CONFIG, is_config_changed, is_damaged

MADE = "_is_hf_initialized"  # the flag by which transformers knows a weight that has its value


class CheckedWeights:
    """Compares the weights and the config of a folder with their digests, while it is loaded."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any = None, *positional: Any, **named: Any
    ) -> Any:
        """What transformers loads; raises where the file is not as it was written."""
        name = pretrained_model_name_or_path
        folder = Path(str(name)) / str(named.get("subfolder") or "")
        path = folder / "model.safetensors"
        if is_config_changed(folder):
            raise changed_config(folder / CONFIG)
        with ThreadPoolExecutor(1) as others:
            damaged = others.submit(is_damaged, path)
            try:
                return super().from_pretrained(name, *positional, **named)  # type: ignore[misc]
            finally:
                if damaged.result():
                    raise damaged_weights(path)


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
        if any(True for _ in module.buffers()):  # a module without tables may have no such method
            module.reset_tables()
        parameters = module.named_parameters()
        missing = [name for name, parameter in parameters if not is_made(parameter)]
        fresh = dict(new_module().named_parameters()) if missing else {}
    for name in missing:
        parameter = module.get_parameter(name)
        parameter.data.copy_(fresh[name])
        setattr(parameter, MADE, True)


def layer_classes(module: Model, stacks: dict[str, str]) -> list[str]:
    """Names of the classes of layers, which stand below the patterns ``A.*``."""
    lists = (module.get_submodule(pattern.removesuffix(".*")) for pattern in stacks)
    return sorted({type(layer).__name__ for stack in lists for layer in stack.children()})
