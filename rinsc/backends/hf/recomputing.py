"""Activations that are made again in the backward pass, in the words of transformers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from transformers.utils import logging

from rinsc.backends.hf.facts import wrong_value
from rinsc.backends.torch.decoding import Checkpointing

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
