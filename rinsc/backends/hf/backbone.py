"""The model without its head, for tools of transformers that compute a loss of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

from rinsc.backends.torch.hosting import HostedModule as Model

Arranged = Callable[..., tuple[Cache | None, dict[str, Any]]]


class Backbone(nn.Module):
    """Token ids to the state that the head's matrix is multiplied with; a view, with no weights of
    its own.

    ``arranged`` makes the emitted module's arguments, and the cache, from those of transformers.
    """

    def __init__(self, model: Model, arranged: Arranged) -> None:
        super().__init__()
        self.model = model
        self._arranged = arranged
        self._tp_plan, self._pp_plan = vars(model)["_tp_plan"], None

    def forward(
        self, input_ids: torch.Tensor | None = None, *given: Any, **named: Any
    ) -> BaseModelOutputWithPast:
        """Arguments are those of the whole model, without labels."""
        cache, arguments = self._arranged(input_ids, *given, **named)
        state = self.model.states(**arguments)
        visited = arguments["visited"]
        return BaseModelOutputWithPast(
            last_hidden_state=state,
            past_key_values=cache,
            hidden_states=None if visited is None else tuple(visited),
        )
