"""What every hosted model has: checked loading, first values of weights that no file holds, and
activations that are made again in the backward pass."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

import torch
from transformers.utils import logging

from rinsc.backends.hf.facts import changed_config, damaged_weights, wrong_value
from rinsc.backends.torch.decoding import Checkpointing
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
        for owner in _owners_of_tables(module):
            owner.reset_tables()
        parameters = module.named_parameters()
        missing = [name for name, parameter in parameters if not is_made(parameter)]
        fresh = dict(new_module().named_parameters()) if missing else {}
    for name in missing:
        parameter = module.get_parameter(name)
        parameter.data.copy_(fresh[name])
        setattr(parameter, MADE, True)


def _owners_of_tables(module: Model) -> list[Any]:
    """What makes tables anew: the module, or each of its towers that has some. A module without
    tables may have no such method."""
    towers = [module] if hasattr(module, "reset_tables") else list(module.children())
    return [tower for tower in towers if any(True for _ in tower.buffers())]


def layer_classes(module: Model, stacks: dict[str, str]) -> list[str]:
    """Names of the classes of layers, which stand below the patterns ``A.*``."""
    lists = (module.get_submodule(pattern.removesuffix(".*")) for pattern in stacks)
    return sorted({type(layer).__name__ for stack in lists for layer in stack.children()})


logger = logging.get_logger(__name__)


class Recomputing:
    """Of a model whose emitted module ``model`` can make activations again."""

    model: Any

    def set_checkpointing(self, how: Checkpointing) -> None:
        """Keep activations in training (``none``), or make those of each ``visit`` or ``round``
        again in the backward pass."""
        if how not in get_args(Checkpointing):
            message = f"checkpointing is {how!r:.40}; it must be one of {get_args(Checkpointing)}"
            hint = "'visit' keeps the state between visits, 'round' that between rounds"
            raise wrong_value("bad-checkpointing", message, hint, "checkpointing")
        self.model.checkpointing = how

    @property
    def is_activation_checkpointing(self) -> bool:
        return bool(self.model.checkpointing != "none")

    @property
    def is_gradient_checkpointing(self) -> bool:  # its older name
        return self.is_activation_checkpointing

    def _set_gradient_checkpointing(
        self,
        enable: bool = True,
        gradient_checkpointing_func: Callable[..., Any] | None = None,
        every_n_layers: int = 1,
    ) -> None:
        """What ``gradient_checkpointing_enable`` comes to: by visit, unless by round was chosen.

        Checkpoints are never reentrant, whatever is asked: that form counts the gradients of a
        block with several visits wrongly where they are reduced over processes.
        """
        options = getattr(gradient_checkpointing_func, "keywords", {})
        if options.get("use_reentrant"):
            logger.warning_once("use_reentrant=True is ignored: a block may have several visits")
        now = self.model.checkpointing
        self.model.checkpointing = (now if now != "none" else "visit") if enable else "none"
