"""Refuse a model that memory cannot hold, before any of it is allocated."""

from __future__ import annotations

import os

from rinsc.cost import stored_params
from rinsc.errors import LoweringError, Problem
from rinsc.graph import BlockGraph

BYTES_PER_PARAM = 4


def require_memory(graph: BlockGraph) -> None:
    """Raises `LoweringError` when the weights alone exceed the machine's memory."""
    needed = stored_params(graph) * BYTES_PER_PARAM
    available = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if needed > available:
        message = (
            f"the weights take {needed / 2**30:.1f} GiB; memory is {available / 2**30:.1f} GiB"
        )
        hint = "use smaller dimensions, or device='meta' for shapes and costs alone"
        raise LoweringError(Problem("does-not-fit", message, hint=hint))
