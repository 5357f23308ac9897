"""Two processes that run every check of `checks` once, for all tests beside this file."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from rinsc.backends.torch.sharded_checkpoint import save_sharded
from tests.distributed import checks
from tests.distributed.ranks import Found, run_on_ranks
from tests.distributed.training import adamw, fresh, train


class Alone(NamedTuple):
    """An unbroken run of one process, and where it left a checkpoint half-way."""

    folder: Path
    losses: list[float]


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    folder = tmp_path_factory.mktemp("ranks")
    model = fresh(checks.RESUMED)
    optimizers = adamw(model)
    losses = train(model, optimizers, checks.RESUMED, range(checks.BROKEN_AT))
    save_sharded(folder / "from-one", model, optimizers, {"step": checks.BROKEN_AT})
    rest = range(checks.BROKEN_AT, checks.STEPS)
    return Alone(folder, losses + train(model, optimizers, checks.RESUMED, rest))


@pytest.fixture(scope="session")
def ranks(alone: Alone) -> Found:
    """What each check found on each of two ranks."""
    return run_on_ranks(checks.__name__, 2, alone.folder)
