"""Doing the runs of a study: what a worker does, wherever and however it was started.

A worker takes the cheapest run that nobody is at, trains it, and takes the next; or it does one
run that it was named. A lease keeps others from the run as long as the worker lives. However a
worker ends, the run is then taken up from its last checkpoint. So workers need not know of each
other, and any number of them may be started on one study, on one machine or on many that share its
folder.

What a worker ends with says what is to be done (`RETRIED`): it is done, its user has to mend
something, or another worker goes on.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from rinsc.errors import CheckpointError, RinscError, UsageError
from rinsc.progress import SilentProgress
from rinsc.storage.files import make_folder
from rinsc.study.folder import (
    MOST_STARTS,
    PLAN_FILE,
    RUNS_FOLDER,
    RunState,
    StudyFolder,
    read_plan,
    run_state,
)
from rinsc.study.lease import STALE_SECONDS, STOPPED, is_taken, taken_alone
from rinsc.study.plan import Plan, PlannedRun
from rinsc.study.tuning import job_states, resolved, state_of, trials_of

BUSY = 75  # of sysexits.h: somebody else is at the run, try it later
RETRIED = (BUSY, 130, 137, STOPPED)  # beside any signal; 1 and 2 are mistakes of the user
WAIT_SECONDS = 1.0
PATIENCE_SECONDS = STALE_SECONDS + 30  # with a worker that may have vanished
DIVERGED = "loss-not-finite"
LEASH = "RINSC_STUDY_LEASH"  # is set for workers that end with the process that began them
CANNOT_WRITE = "cannot-write"
_FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO, errno.ESTALE)


def opened(folder: str | Path) -> tuple[StudyFolder, Plan]:
    """A study whose runs can be begun; raises SpecError where there is none.

    A worker opens it once for each run, and the plan is read once.
    """
    study = StudyFolder(Path(folder))
    try:
        facts = (study.path / PLAN_FILE).stat()
        key = (facts.st_mtime_ns, facts.st_size, facts.st_ino)
    except OSError:
        key = (0, 0, 0)
    plan = _plan(study.path.absolute(), key)
    make_folder(study.path / RUNS_FOLDER)
    return study, plan


@lru_cache(maxsize=4)
def _plan(folder: Path, key: tuple[int, ...]) -> Plan:
    return read_plan(folder)


def work(folder: str | Path) -> int:
    """Do runs of a study until nobody waits. Returns how many were done.

    A run that fails or diverges is an outcome, and the next one begins. Raises OutputError where
    nothing can be written.
    """
    coordinator_gone = _end_with_coordinator()
    study, plan = opened(folder)
    done = 0
    while True:
        last = done
        waiting = [s.run for s in job_states(study, plan) if s.state == "waiting"]
        for run in waiting:
            done += _taken_and_done(study, plan, run)
            if coordinator_gone.is_set():
                raise SystemExit(STOPPED)
        if done == last:  # a whole pass found nothing to do
            if plan.tuning is None or not waiting:
                return done
            time.sleep(WAIT_SECONDS)  # others are at the trials that decide the rate of these


def work_on(folder: str | Path, name: str) -> RunState:
    """Do one run, named or numbered, and return what became of it.

    The trials that decide its learning rate are done before it. A run that failed before is tried
    again. Where another worker is at such a trial, it is waited for; where one is at the run
    itself, for a while.
    """
    _end_with_coordinator()
    study, plan = opened(folder)
    run = run_named(plan, name)
    study.forget_failure(run)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        for job in (*trials_of(plan, run), run):
            if study.is_over(job):
                continue
            is_busy = is_taken(study.lock(job))
            done = not is_busy and _taken_and_done(study, plan, job)
            if done or (is_busy and job is not run):
                deadline = time.monotonic() + PATIENCE_SECONDS
        state = state_of(study, plan, run)
        if state.is_over or time.monotonic() > deadline:
            return state
        time.sleep(WAIT_SECONDS)


def exit_status(state: RunState) -> int:
    """What a worker of this run alone ends with."""
    if state.is_over:
        return 1 if state.state == "failed" else 0
    return BUSY


def run_named(plan: Plan, name: str) -> PlannedRun:
    """The run of a name, or of a number; raises UsageError."""
    for number, run in enumerate(plan.jobs):
        if name in (run.name, str(number)):
            return run
    message = f"the study has no run '{name}'"
    hint = f"write a number from 0 to {len(plan.jobs) - 1}, or a name of plan.json"
    raise UsageError("unknown-run", message, hint=hint)


def _taken_and_done(study: StudyFolder, plan: Plan, run: PlannedRun) -> bool:
    """Whether the run was ours to do, at a rate that is decided, and is done."""
    with taken_alone(study.lock(run)) as is_ours:
        if not is_ours or run_state(study, run).is_over:
            return False
        ready = resolved(study, plan, run)
        if ready is None:
            return False
        _do(study, plan, ready)
        return True


def _take_first_steps(study: StudyFolder, plan: Plan, run: PlannedRun) -> None:
    """With the schedule ``wsd`` a run begins with the first steps of a shorter one, which are its
    own: it ends with the weights that it would have without, in less time."""
    from rinsc.training.resuming import begin_from_trunk

    if run.config.schedule != "wsd" or study.run(run).is_begun:
        return
    which = run.variant, run.config.seed
    shorter = [
        other
        for other in plan.runs
        if (other.variant, other.config.seed) == which and other.config.steps < run.config.steps
    ]
    spec = plan.variant(run.variant).spec
    for other in sorted(shorter, key=lambda item: item.config.steps, reverse=True):
        if study.run(other).is_finished:
            with suppress(CheckpointError):  # of other settings, or damaged: it does without
                begin_from_trunk(study.run(other).path, spec, run.config, study.run(run).path)
                return


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
        _take_first_steps(study, plan, run)
        planned.run(progress=SilentProgress())
    except StoppedError:
        raise SystemExit(STOPPED) from None
    except RinscError as error:
        if error.code == CANNOT_WRITE and _is_of_the_disk(error.__cause__):
            raise
        is_divergence = error.code == DIVERGED
        study.end(run, "diverged" if is_divergence else "failed", error.message)
    except MemoryError:
        study.end(run, "failed", "the memory of this machine is too small for it")
    except Exception as error:  # whatever breaks one variant stops no other
        if isinstance(error, OSError) and _is_of_the_disk(error):
            raise
        study.end(run, "failed", f"{type(error).__name__}: {error!s:.200}")


def _is_of_the_disk(error: BaseException | None) -> bool:
    """Whether every run would meet the error, and not only one whose folder is in the way."""
    return not isinstance(error, OSError) or error.errno in _FULL_DISK


def _end_with_coordinator() -> threading.Event:
    """End as on SIGTERM when the process at the other end of standard input is gone.

    A run in its last step is not stopped by a signal: what is returned says it to its worker.
    """
    is_gone = threading.Event()

    def watch() -> None:
        while os.read(0, 1024):
            pass
        is_gone.set()
        os.kill(os.getpid(), signal.SIGTERM)

    if os.environ.get(LEASH) is not None:
        threading.Thread(target=watch, daemon=True).start()
    return is_gone
