"""The first process may take long over something: the others wait for it."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from rinsc.backends.torch.distributed_check import process_group
from rinsc.backends.torch.processes import on_first

SHORT, LONG = 1.0, 3.0  # seconds: what a collective may take, and what the first process takes


def slow() -> str:
    time.sleep(LONG)
    return "done"


def wait(rank: int, folder: Path) -> None:
    with process_group(folder, rank, 2):
        on_first(lambda: None)
        world = dist.group.WORLD
        assert world is not None
        world._get_backend(torch.device("cpu"))._set_default_timeout(timedelta(seconds=SHORT))
        (folder / f"{rank}.txt").write_text(on_first(slow))


def test_the_others_wait_for_the_first(tmp_path: Path) -> None:
    start_processes(wait, (tmp_path,), 2, start_method="spawn")  # type: ignore[no-untyped-call]
    assert [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)] == ["done"] * 2
