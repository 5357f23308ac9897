"""A cache of transformers, seen by the layers that run: a slot for each layer of each visit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer, StaticLayer

from rinsc.backends.hf.facts import cannot_run


@dataclass
class _Repeat:
    """A repeat whose rounds share slots, while it runs."""

    first_slot: int
    keep: str
    round: int = -1


class CacheSlots:
    """Counts up through the cache while one pass runs.

    A layer that runs several times has as many slots, so its own index is of no use. Where the
    rounds of a repeat share slots (``kv=first``, ``kv=last``), each round sees what earlier passes
    kept and its own new tokens, and those of the first or the last round are kept.
    """

    def __init__(self, cache: Cache) -> None:
        self.cache = cache
        self.slot = 0
        self._written = 0  # slots of this pass that have been written
        self._repeats: list[_Repeat] = []

    def update(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values (batch, kv_heads, total, head_dim) behind which the new ones stand."""
        slot, self.slot = self.slot, self.slot + 1
        if slot >= self._written:
            self._written = self.slot
            return self.cache.update(key, value, slot)
        return self._instead(key, value, slot)

    def one_by_one(
        self, position_ids: torch.Tensor, mask: torch.Tensor | None
    ) -> Iterator[tuple[slice, torch.Tensor | None]]:
        """Where each token of a pass is, and the keys it sees; slots are counted anew for each."""
        seq, device = position_ids.shape[1], position_ids.device
        is_static = self.cache.is_compileable  # its keys are all its room
        if mask is None and is_static:
            ends = self.cache.get_seq_length() + torch.arange(seq, device=device)
            room = torch.arange(self.cache.get_max_length(), device=device)
            mask = (room <= ends[:, None])[None, None]
        for index in range(seq):
            self.slot = self._written = 0
            one = slice(index, index + 1)
            seen = mask
            if mask is not None:
                keys = mask.shape[3] if is_static else mask.shape[3] - seq + index + 1
                seen = mask[:, :, one, :keys]
            yield one, seen

    def enter(self, keep: str) -> None:
        """A repeat starts whose rounds share slots."""
        self._repeats.append(_Repeat(self.slot, keep))

    def again(self) -> None:
        """Its next round starts."""
        repeat = self._repeats[-1]
        repeat.round += 1
        self.slot = repeat.first_slot

    def leave(self) -> None:
        """It is over."""
        self._repeats.pop()

    def _instead(
        self, key: torch.Tensor, value: torch.Tensor, slot: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """New keys and values in the place of those that an earlier round of this pass wrote."""
        layer = self.cache.layers[slot]
        if type(layer) not in (DynamicLayer, StaticLayer) or self.cache.offloading:
            name = "an offloaded cache" if self.cache.offloading else type(layer).__name__
            message = f"rounds that share slots cannot be kept by {name}"
            hint = "take the dynamic or the static cache, or kv=own"
            raise cannot_run("no-cache", message, hint)
        kept = cast(DynamicLayer | StaticLayer, layer)
        keys, values = cast(torch.Tensor, kept.keys), cast(torch.Tensor, kept.values)
        made = _replaced(kept, keys, key), _replaced(kept, values, value)
        if any(each.keep == "first" and each.round > 0 for each in self._repeats):
            return made
        if isinstance(kept, StaticLayer):  # whose tensors must stay where they are
            return keys.copy_(made[0]), values.copy_(made[1])
        kept.keys, kept.values = made
        return made


def _replaced(
    layer: DynamicLayer | StaticLayer, kept: torch.Tensor, new: torch.Tensor
) -> torch.Tensor:
    """What is kept (batch, kv_heads, total, head_dim), its latest tokens those of ``new``."""
    seq = new.shape[2]
    if isinstance(layer, StaticLayer):
        places = layer.cumulative_length - seq + torch.arange(seq, device=new.device)
        return kept.index_copy(2, places, new)
    return torch.cat((kept[:, :, : kept.shape[2] - seq], new), dim=2)
