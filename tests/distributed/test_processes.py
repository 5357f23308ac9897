"""What processes do together: the others wait for the first, and each ends without a crash."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes

from rinsc.backends.torch.distributed_check import process_group
from rinsc.backends.torch.processes import on_first

SHORT, LONG = 1.0, 3.0  # seconds: what a collective may take, and what the first process takes

# The first of two processes comes to its end while a thread sends a tensor. The second takes it
# once the end has begun: the thread then waits to free the tensor, and Python's own end aborts it.
ENDING = """
import atexit, os, sys, time

folder, rank = sys.argv[1], int(sys.argv[2])
if rank == 0:
    atexit.register(sum, range(200_000_000))  # last of all; some seconds without another thread

import torch
import torch.distributed as dist
from rinsc.backends.torch.processes import end_process

dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
dist.barrier()
if rank == 0:
    dist.all_reduce(torch.ones(3), async_op=True)
    end_process(0)
else:
    time.sleep(0.5)
    dist.all_reduce(torch.ones(3))
    os._exit(0)
"""


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


def test_a_thread_that_still_holds_a_tensor_does_not_abort_its_process(tmp_path: Path) -> None:
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", ENDING, str(tmp_path), str(rank)],
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo"},
        )
        for rank in range(2)
    ]
    assert [rank.wait(timeout=100) for rank in ranks] == [0, 0]
