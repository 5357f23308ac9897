"""The windows of a run in the order in which it sees them, for PyTorch's loader."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from rinsc.data.batches import TrainingWindows, Window
from rinsc.train.config import TrainConfig


class TrainingData(Dataset[Window]):
    """Window ``index`` of the run: step s of a batch of n sees s·n to s·n + n − 1."""

    def __init__(self, windows: TrainingWindows, config: TrainConfig) -> None:
        self._windows = windows
        self._count = config.steps * config.batch_sequences

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Window:
        return self._windows.window(index)

    @property
    def epochs(self) -> float:
        """How often the run goes through its text."""
        return self._count / len(self._windows)


def collate(windows: Sequence[Window]) -> dict[str, torch.Tensor]:
    """Windows as what the model takes: ids, and targets that are shifted already, (batch, seq)."""
    targets = _stacked([window.targets for window in windows])
    batch = {
        "input_ids": _stacked([window.input_ids for window in windows]),
        "labels": targets,
        "shift_labels": targets,
    }
    positions = [window.position_ids for window in windows]
    if positions[0] is not None:
        batch["position_ids"] = _stacked([each for each in positions if each is not None])
    return batch


def _stacked(rows: Sequence[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(rows))
