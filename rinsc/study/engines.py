"""Running a study: on this machine, as tasks of Ray, or as jobs of Slurm through submitit.

On this machine, workers do one run after another (`workers`). Ray and Slurm are given a task for
each run. They say on which machine it goes on; what becomes of it is in the run folders, as it is
everywhere. So retries have one rule, by the exit status of a run, and none of theirs is used. A
study may be begun on one engine and go on with another.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from rinsc.errors import OutputError, UsageError, did_you_mean, setting
from rinsc.progress import Progress, ShownProgress
from rinsc.scalars import real
from rinsc.study.folder import RunState, StudyFolder
from rinsc.study.lease import taken_alone
from rinsc.study.tasks import MOST_WORKERS, Engine, Resources, resource_count, slurm_options
from rinsc.study.tuning import job_states
from rinsc.study.workers import Watch, stopped, work_here
from rinsc.study.working import BUSY, RETRIED, opened

EngineName = Literal["local", "ray", "slurm", "slurm-local"]
MOST_VAIN_JOBS = 3  # of one run, that end before they begin it
BUSY_SECONDS = 10.0  # before a run that somebody else is at is given to the engine again


def run_study(
    folder: str | Path,
    *,
    on: EngineName = "local",
    workers: int | None = None,
    threads: int = 1,
    gpus: float = 0,
    slurm: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[RunState]:
    """Do all runs of a study, ``workers`` at a time: one for each core of this machine, or as many
    as a cluster takes.

    ``on`` is where: ``"local"``, ``"ray"`` (the cluster of RAY_ADDRESS, or one of this machine),
    ``"slurm"``, or ``"slurm-local"``, which tries the jobs of Slurm out on this machine. Each run
    has ``threads`` cores and, on a cluster, ``gpus``. ``slurm`` are options of sbatch, as
    ``"partition=long"``. Repeat it to go on after an interruption; runs that failed are tried once
    more. Raises OutputError where another process is at it, and UsageError for what is no option.
    """
    resources = _checked(on, workers, threads, gpus, slurm)
    study, plan = opened(folder)
    progress = progress or ShownProgress()
    with (
        _ended_by_signals(),
        _coordinator(study),
        progress.task("running the study") as observe,
    ):
        for run in plan.jobs:
            study.forget_failure(run)
        watch = Watch(study, plan, observe)
        if on == "local":
            cores = max(1, (os.cpu_count() or 1) // resources.threads)
            work_here(watch, resources.workers or cores, resources.threads)
        elif watch.left:
            with _opened(on, study, resources) as engine:
                hand_out(watch, engine)
    return job_states(study, plan)


def _checked(
    on: str, workers: int | None, threads: int, gpus: float, slurm: Sequence[str]
) -> Resources:
    names = get_args(EngineName)
    if on not in names:
        message = f"a study cannot run on '{on}'"
        raise UsageError("usage", message, place=setting("on"), hint=did_you_mean(on, names))
    hint = "leave it out for one a core"
    at_once = 0 if workers is None else resource_count("workers", workers, hint=hint)
    cores = resource_count("threads", threads, hint=hint)
    share = real(gpus)
    if share is None or not 0 <= share <= MOST_WORKERS or (on != "ray" and share != int(share)):
        message = f"{setting('gpus')} must be a number of GPUs, not {gpus!r:.40}"
        raise UsageError("usage", message, hint="a share of a GPU is for Ray alone")
    return Resources(at_once, cores, share, slurm_options(slurm))


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the body as Ctrl-C does, so that no worker and no job is left."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    names = [name for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    earlier = {
        number: signal.signal(number, end)
        for number in numbers
        if signal.getsignal(number) == signal.SIG_DFL  # nohup ignores SIGHUP
    }
    try:
        yield
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)


@contextmanager
def _coordinator(study: StudyFolder) -> Iterator[None]:
    """One process alone starts workers; raises OutputError where another does."""
    with taken_alone(study.path / ".lock") as is_ours:
        if not is_ours:
            message = "another process runs this study"
            hint = "wait for it, or see how far it is with rinsc study status"
            raise OutputError("study-in-use", message, place=str(study.path), hint=hint)
        yield


@contextmanager
def _opened(on: str, study: StudyFolder, resources: Resources) -> Iterator[Engine]:
    engine: Engine
    if on == "ray":
        from rinsc.study.on_ray import RayEngine

        engine = RayEngine(study, resources)
    else:
        from rinsc.study.on_slurm import SlurmEngine

        engine = SlurmEngine(study, resources, "slurm" if on == "slurm" else "local")
    try:
        yield engine
    finally:
        engine.close()


def hand_out(watch: Watch, engine: Engine) -> None:
    """Give the engine every run once, and again as long as it ended before it was over."""
    study, working = watch.study, set[str]()
    not_before: dict[str, float] = {}
    vain: dict[str, tuple[bytes, int]] = {}  # what was written of its starts, and how often
    while watch.left:
        now = time.monotonic()
        free = [
            run
            for run in watch.startable()
            if run.name not in working and not_before.get(run.name, now) <= now
        ]
        if chosen := free[: engine.capacity - len(working)]:
            engine.start(chosen)
            working |= {run.name for run in chosen}
        ended = engine.ended(watch.rest_seconds)
        watch.look()
        for end in ended:
            name = end.run.name
            working.discard(name)
            if end.status is not None and end.status > 0 and end.status not in RETRIED:
                if name in watch.left:  # else it failed, which is written down
                    raise stopped(study, end.code or "worker-stopped", end.message)
            elif end.status == BUSY:
                not_before[name] = time.monotonic() + BUSY_SECONDS
            elif name in watch.left:
                begun = study.starts_text(end.run)
                last, count = vain.get(name, (b"", 0))
                vain[name] = begun, count + 1 if begun == last else 0
                if vain[name][1] >= MOST_VAIN_JOBS:
                    message = f"its jobs end before they begin: {end.message or end.run.words}"
                    raise stopped(study, "worker-stopped", message)
