"""Start the processes of the check on this machine, wait for them, and end what hangs."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rinsc.backends.torch.distributed_check import GRADIENT_LIMIT, RESULT
from rinsc.errors import Problem, RinscError
from rinsc.files import read_json
from rinsc.folders import temporary_folder

CHECK = "rinsc.backends.torch.distributed_check"
PROCESSES = 2
TIMEOUT_SECONDS = 180.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class GradientRow:
    """One way to spread a model: how far its gradients are from those of one process, relative to
    the largest of a weight, and how far they may be."""

    what: str
    difference: float
    limit: float = GRADIENT_LIMIT

    @property
    def passed(self) -> bool:
        return self.difference <= self.limit  # False for NaN


def check_gradients(*, timeout_seconds: float = TIMEOUT_SECONDS) -> list[GradientRow]:
    """Gradients of two processes under DDP and FSDP2 against those of one.

    Raises `RinscError` where the processes cannot start, fail, or do not end in time; none of them
    outlives the call.
    """
    with temporary_folder() as folder:
        processes = [_start(folder, rank) for rank in range(PROCESSES)]
        try:
            _wait(processes, folder, time.monotonic() + timeout_seconds)
        finally:
            for process in processes:
                process.kill()
                process.wait()
        gaps = read_json(folder / RESULT)
        return [GradientRow(what, gap) for what, gap in gaps.items()]


def _start(folder: Path, rank: int) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-P",
        "-m",
        CHECK,
        str(folder),
    ]
    with _errors(folder, rank).open("wb") as errors:
        return subprocess.Popen(
            command,
            env=_environment(rank),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
        )


def _environment(rank: int) -> Mapping[str, str]:
    """The processes talk over the loopback interface, unless the user named another."""
    given = {"RANK": str(rank), "WORLD_SIZE": str(PROCESSES)}
    loopback = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), None)
    default = {"GLOO_SOCKET_IFNAME": loopback} if loopback else {}
    return {**default, **os.environ, **given}


def _wait(processes: list[subprocess.Popen[bytes]], folder: Path, until: float) -> None:
    """Until all have ended well; raises `RinscError` at the first that has not."""
    while True:
        states = [process.poll() for process in processes]
        for rank, state in enumerate(states):
            if state:
                raise _failed(f"process {rank} failed: {_last_error(folder, rank)}")
        if all(state == 0 for state in states):
            return
        if time.monotonic() > until:
            raise _failed("the processes did not end in time")
        time.sleep(POLL_SECONDS)


def _errors(folder: Path, rank: int) -> Path:
    return folder / f"errors-{rank}.txt"


def _last_error(folder: Path, rank: int) -> str:
    """The line in which Python says what was raised."""
    text = _errors(folder, rank).read_text(encoding="utf-8", errors="replace")
    lines = [line for line in text.splitlines() if line and not line[0].isspace()]
    named = [line for line in lines if "Error" in line.partition(":")[0]]
    return (named or lines or ["it says nothing"])[-1][:300]


def _failed(message: str) -> RinscError:
    hint = (
        "two processes of this machine have to reach each other with PyTorch's gloo; see that "
        "GLOO_SOCKET_IFNAME names a network interface that is up, such as lo"
    )
    return RinscError(Problem("distributed-failed", message, hint=hint))
