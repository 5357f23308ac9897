"""Tables that are computed and that no file holds: made again where a device gets its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import nn

from rinsc.spec import ModelSpec


class TableKeeper(nn.Module):
    """A module whose tables follow its weights off the device ``meta``.

    ``to_empty`` leaves every buffer without values, and ``load_state_dict(…, assign=True)`` leaves
    those that no file holds on ``meta``: both would give wrong logits, or none.
    """

    spec: ClassVar[ModelSpec]  # that it was emitted from

    def reset_tables(self) -> None:
        """Make the tables that are computed, not trained; emitted modules say how."""
        raise NotImplementedError

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Self:
        was_empty = any(table.is_meta for table in self.buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        tables = list(self.buffers(recurse=False))
        if was_empty and not tables[0].is_meta:
            self._reset_tables(tables[0])
        return self

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: Any, *rest: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        tables = list(self.buffers(recurse=False))
        given = [tensor for name, tensor in state_dict.items() if name.startswith(prefix)]
        is_assigned = local_metadata.get("assign_to_params_buffers", False)
        if is_assigned and given and tables and tables[0].is_meta and not given[0].is_meta:
            self._reset_tables(given[0])

    def _reset_tables(self, like: torch.Tensor) -> None:
        dtypes = {name: table.dtype for name, table in self.named_buffers(recurse=False)}
        with like.device:
            self.reset_tables()
        for name, dtype in dtypes.items():
            self.register_buffer(name, self.get_buffer(name).to(dtype), persistent=False)
