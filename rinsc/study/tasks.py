"""A task of an engine: one run, done in a process that the engine starts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rinsc.errors import OutputError, RinscError, UsageError, setting
from rinsc.scalars import whole
from rinsc.study.lease import STOPPED
from rinsc.study.plan import PlannedRun
from rinsc.study.working import exit_status, work_on

MOST_AT_ONCE = 1000  # runs that a cluster is given at a time
MOST_WORKERS = 1024
_SLURM_OPTION = re.compile(r"([a-z][a-z-]*)=([ -~]*[!-~])")


@dataclass(frozen=True)
class Resources:
    """What each run is given, and how many go on at a time; 0 is as many as the engine takes."""

    workers: int = 0
    threads: int = 1
    gpus: float = 0
    slurm: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Ended:
    """The end of a task: an exit status, None where its worker vanished. An error has a code."""

    run: PlannedRun
    status: int | None
    code: str = ""
    message: str = ""


class Engine(Protocol):
    """Starts tasks somewhere, each of which calls `do_run`."""

    capacity: int

    def start(self, runs: Sequence[PlannedRun]) -> None:
        """Begin a task for each run."""

    def ended(self, seconds: float) -> list[Ended]:
        """Wait for that time at most; the tasks that ended meanwhile."""

    def close(self) -> None:
        """End the tasks that are left, with their checkpoints where that can be."""


def do_run(folder: str, name: str, threads: int) -> tuple[int, str, str]:
    """What a task does: one run, in a process of the engine. Returns what `Ended` holds."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # before PyTorch is imported
    try:
        return exit_status(work_on(folder, name)), "", ""
    except RinscError as error:
        return error.exit_status, error.code, error.message
    except OSError as error:
        return OutputError.exit_status, "system-error", str(error)
    except SystemExit as end:
        if end.code != STOPPED:  # the engine's own way to end, as when it puts a job into the queue
            raise
        return STOPPED, "", ""


def resource_count(name: str, value: object, *, least: int = 1, hint: str) -> int:
    """A number of workers, cores or GPUs; raises UsageError for a value that is none."""
    count = whole(value)
    if count is None or not least <= count <= MOST_WORKERS:
        message = f"{setting(name)} must be from {least} to {MOST_WORKERS}, not {value!r:.40}"
        raise UsageError("usage", message, hint=hint)
    return count


def slurm_options(texts: Sequence[str]) -> dict[str, str]:
    """Options of sbatch by name; raises UsageError for a text that is none."""
    options = {}
    for text in texts:
        match = _SLURM_OPTION.fullmatch(text)
        if match is None:
            message = f"'{text!s:.60}' is not an option of sbatch"
            raise UsageError("usage", message, hint="write KEY=VALUE, as partition=long")
        options[match[1]] = match[2]
    return options
