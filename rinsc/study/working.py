"""Doing the runs of a study: one worker after another run, several workers side by side.

A worker takes the cheapest run that nobody is at, trains it, and takes the next. What it holds is a
lock on a file, which the system lets go of however the worker ends; the run is then taken up from
its last checkpoint. So workers need not know of each other, and any number of them may be started
on one study, on one machine or on many that share its folder and its locks.

`run_study` starts workers on this machine, and replaces those that vanish.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from rinsc.errors import OutputError, RinscError, UsageError, plural, setting
from rinsc.progress import Observer, Progress, ShownProgress, SilentProgress
from rinsc.scalars import whole
from rinsc.storage.files import held_alone, make_folder
from rinsc.study.folder import (
    MOST_STARTS,
    RUNS_FOLDER,
    RunState,
    StudyFolder,
    read_plan,
    run_state,
    study_states,
)
from rinsc.study.plan import Plan, PlannedRun

POLL_SECONDS = 0.2
MOST_WORKERS = 1024
MOST_SECONDS_TO_END = 60
STOPPED = 143  # a worker that was told to end, and will be continued by another
DIVERGED = "loss-not-finite"
LEASH = "RINSC_STUDY_LEASH"  # is set for workers that end with the process that began them


def run_study(
    folder: str | Path,
    *,
    workers: int | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> list[RunState]:
    """Do all runs of a study on this machine, ``workers`` at a time (one for each core).

    Repeat it to go on after an interruption; runs that failed are tried once more. Raises
    OutputError where another process is at it, and UsageError for counts that are none.
    """
    for name, value in (("workers", workers), ("threads", threads)):
        count = whole(value)
        if value is not None and (count is None or not 1 <= count <= MOST_WORKERS):
            message = f"{setting(name)} must be from 1 to {MOST_WORKERS}, not {value!r:.40}"
            raise UsageError("usage", message, hint="leave it out for one a core")
    study, plan = _opened(folder)
    if workers is None:
        workers = max(1, (os.cpu_count() or 1) // threads)
    progress = progress or ShownProgress()
    with _coordinator(study), progress.task("running the study") as observe:
        study.forget_failures(plan)
        _keep_working(study, plan, workers, threads, observe)
    return study_states(study, plan)


def work(folder: str | Path, *, only: str | None = None) -> int:
    """Do runs of a study until nobody waits: what each worker does. Returns how many were done.

    ``only`` is the name of one run, or its number in the plan. A run that fails or diverges is an
    outcome, and the next one begins. Raises OutputError where nothing can be written.
    """
    _end_with_coordinator()
    study, plan = _opened(folder)
    runs = plan.runs if only is None else (_named(plan, only),)
    done, last = 0, -1
    while done != last:  # until a whole pass finds nothing to do
        last = done
        for run in runs:
            if run_state(study, run).state != "waiting":
                continue
            with held_alone(study.lock(run)) as is_ours:
                if is_ours and not run_state(study, run).is_over:
                    _do(study, plan, run)
                    done += 1
    return done


def _opened(folder: str | Path) -> tuple[StudyFolder, Plan]:
    plan, study = read_plan(folder), StudyFolder(Path(folder))
    make_folder(study.path / RUNS_FOLDER)
    return study, plan


def _named(plan: Plan, name: str) -> PlannedRun:
    for number, run in enumerate(plan.runs):
        if name in (run.name, str(number)):
            return run
    message = f"the study has no run '{name}'"
    hint = f"write a number from 0 to {len(plan.runs) - 1}, or a name of plan.json"
    raise UsageError("unknown-run", message, hint=hint)


def _do(study: StudyFolder, plan: Plan, run: PlannedRun) -> None:
    """Train one run to its end, and write down what it comes to."""
    from rinsc.training.checkpoint import checkpoints
    from rinsc.training.devices import find_devices
    from rinsc.training.run import StoppedError
    from rinsc.training.start import planned_run

    run_folder = study.run(run)
    begun = checkpoints(run_folder.path)
    starts = study.count_start(run, begun[-1].step if begun else 0)
    if starts > MOST_STARTS:
        study.end(run, "failed", f"{MOST_STARTS} workers ended at it, each in the same place")
        return
    try:
        planned = planned_run(
            *(plan.variant(run.variant).spec, run.config, plan.data, run_folder.path),
            devices=find_devices("auto"),
        )
        planned.run(progress=SilentProgress())
    except StoppedError:
        raise SystemExit(STOPPED) from None
    except (OutputError, OSError):
        raise  # the disk is full, or the folder gone: no fault of the run
    except RinscError as error:
        is_divergence = error.code == DIVERGED
        study.end(run, "diverged" if is_divergence else "failed", error.message)
    except MemoryError:
        study.end(run, "failed", "the memory of this machine is too small for it")
    except Exception as error:  # whatever breaks one variant stops no other
        study.end(run, "failed", f"{type(error).__name__}: {error!s:.200}")


@contextmanager
def _coordinator(study: StudyFolder) -> Iterator[None]:
    """One process alone starts workers; raises OutputError where another does."""
    with held_alone(study.path / ".lock") as is_ours:
        if not is_ours:
            message = "another process runs this study"
            hint = "wait for it, or see how far it is with rinsc study status"
            raise OutputError("study-in-use", message, place=str(study.path), hint=hint)
        yield


def _keep_working(
    study: StudyFolder, plan: Plan, workers: int, threads: int, observe: Observer
) -> None:
    """Start workers, replace those that vanish, and wait until no run is left."""
    left = sum(not each.is_over for each in study_states(study, plan))
    working = [_started(study, threads) for _ in range(min(workers, left))]
    replacements = MOST_STARTS * len(plan.runs)
    try:
        while working:
            time.sleep(POLL_SECONDS)
            states = study_states(study, plan)
            over = sum(each.is_over for each in states)
            observe(over / len(states), f"{over} of {plural(len(states), 'run')}")
            for worker in [each for each in working if each.status is not None]:
                working.remove(worker)
                if worker.status is not None and 0 < worker.status != STOPPED:
                    hint = "mend it and repeat the command: finished runs are kept"
                    raise OutputError("worker-stopped", worker.error(), hint=hint)
                if worker.status != 0 and replacements and over < len(states):
                    replacements -= 1
                    working.append(_started(study, threads))
    finally:
        for worker in working:
            worker.end()


@dataclass
class Worker:
    """A process that does runs, and the file that holds what it says."""

    process: subprocess.Popen[bytes]
    told: IO[bytes]

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None as long as it works."""
        return self.process.poll()

    def end(self) -> None:
        """Tell it to end, and wait for its checkpoint."""
        self.process.terminate()
        try:
            self.process.wait(timeout=MOST_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def error(self) -> str:
        """The first error it told, in a line."""
        self.told.seek(0)
        lines = self.told.read().decode("utf-8", "replace").splitlines()
        return next((line for line in lines if line.startswith("error")), "a worker ended")


def _started(study: StudyFolder, threads: int) -> Worker:
    """A worker of this machine, which ends when this process does."""
    told = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the worker is
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), LEASH: "1"}
    command = [sys.executable, "-P", "-m", "rinsc", "study", "work", str(study.path)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=told,
        env=environment,
    )
    return Worker(process, told)


def _end_with_coordinator() -> None:
    """End as on SIGTERM when the process at the other end of standard input is gone."""
    if os.environ.get(LEASH) is None:
        return

    def watch() -> None:
        while os.read(0, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
