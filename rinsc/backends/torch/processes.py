"""What several processes of one run do together, apart from arithmetic."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar, cast

import torch.distributed as dist

from rinsc.errors import RinscError

Result = TypeVar("Result")

PATIENCE = timedelta(days=7)  # a text may take long to prepare; a process that dies is told at once


def process_count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def is_first() -> bool:
    return not dist.is_initialized() or dist.get_rank() == 0


def on_first(action: Callable[[], Result]) -> Result:
    """Do something in the first process while the others wait; all get its result.

    The result must be something that can be pickled. A RinscError is raised in all of them.
    """
    told: list[Any] = [None, None]
    waiting = _patient(dist.group.WORLD) if dist.is_initialized() else None
    if is_first():
        try:
            told = [None, action()]
        except RinscError as error:
            told = [error, None]
    if waiting is not None:
        dist.broadcast_object_list(told, src=0, group=waiting)
    if told[0] is not None:
        raise told[0]
    return cast(Result, told[1])


@lru_cache(maxsize=1)
def _patient(world: dist.ProcessGroup) -> dist.ProcessGroup:
    """All processes, which wait for each other longer than those of ``world`` do."""
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    return cast(dist.ProcessGroup, group)
