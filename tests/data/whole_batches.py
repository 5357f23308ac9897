"""Windows a whole batch at a time: what `TrainingWindows` gives one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rinsc.data.batches import EpochOrder


class TrainingBatches:
    """Which windows a step trains on, as a pure function of seed and step.

    Each epoch sees every window once in an order of its own; a batch may span two epochs, and
    epochs repeat for as long as training lasts.
    """

    def __init__(self, windows: npt.NDArray[Any], batch_sequences: int, seed: int) -> None:
        self._windows = windows
        self._batch_sequences = batch_sequences
        self._order = EpochOrder(len(windows), seed)

    def batch(self, step: int) -> npt.NDArray[np.int64]:
        """The windows of ``step``, counted from 0, as ``(batch, seq + 1)``."""
        first = step * self._batch_sequences
        places = range(first, first + self._batch_sequences)
        chosen = [self._order.item(place) for place in places]
        return self._windows[chosen].astype(np.int64)

    def epochs(self, steps: int) -> float:
        """How often ``steps`` steps go through the windows."""
        return steps * self._batch_sequences / len(self._windows)
