"""A study as jobs of Slurm, submitted by submitit: one job a run, as arrays.

Before its time is up Slurm signals a job; submitit then puts it into the queue again, and the run
goes on from its last checkpoint. Retrying other ends is `engines`' business. The machines share the
folder of the study, which has what submitit writes in ``jobs``.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rinsc.errors import UsageError, setting
from rinsc.extras import require
from rinsc.study.folder import StudyFolder
from rinsc.study.plan import PlannedRun
from rinsc.study.tasks import MOST_AT_ONCE, Ended, Resources, do_run

if TYPE_CHECKING:
    import submitit
    from submitit.core.utils import DelayedSubmission

MINUTES = 240  # of a job, which goes on in another one; an option of sbatch wins
MOST_REQUEUES = 1000
SECONDS_TO_END = 30.0


@dataclass(frozen=True)
class RunJob:
    """What submitit pickles: one run of a study."""

    folder: str
    name: str
    threads: int

    def __call__(self) -> tuple[int, str, str]:
        return do_run(self.folder, self.name, self.threads)

    def checkpoint(self) -> DelayedSubmission:
        """The same again: what is done by now is in the run folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class SlurmEngine:
    """Jobs of Slurm, or processes of this machine that submitit treats alike."""

    def __init__(
        self, study: StudyFolder, resources: Resources, cluster: Literal["slurm", "local"]
    ) -> None:
        require("submitit")
        import submitit

        if cluster == "slurm" and shutil.which("sbatch") is None:
            here = setting('on="slurm-local"', "--on slurm-local")
            hint = f"run this where sbatch is, or try it out with {here}"
            raise UsageError("no-slurm", "this machine has no command sbatch", hint=hint)
        cores = max(1, (os.cpu_count() or 1) // resources.threads)
        self.capacity = resources.workers or (MOST_AT_ONCE if cluster == "slurm" else cores)
        self._study, self._threads = study, resources.threads
        self._jobs: list[tuple[submitit.Job[tuple[int, str, str]], PlannedRun]] = []
        # A folder of its own: numbers of local jobs come again.
        stamp = f"{time.strftime('%Y-%m-%d-%H%M%S')}-{os.getpid()}"
        self._executor = submitit.AutoExecutor(
            study.path.resolve() / "jobs" / stamp,
            cluster=cluster,
            **{f"{cluster}_max_num_timeout": MOST_REQUEUES},
        )
        self._executor.update_parameters(
            name="rinsc",
            timeout_min=MINUTES,
            cpus_per_task=resources.threads,
            gpus_per_node=int(resources.gpus),
            slurm_additional_parameters=dict(resources.slurm or {}),
        )

    def start(self, runs: Sequence[PlannedRun]) -> None:
        folder = str(self._study.path.resolve())
        with self._executor.batch():
            jobs = [self._executor.submit(RunJob(folder, run.name, self._threads)) for run in runs]
        self._jobs += zip(jobs, runs, strict=True)

    def ended(self, seconds: float) -> list[Ended]:
        time.sleep(seconds)
        over = [(job, run) for job, run in self._jobs if job.done()]
        self._jobs = [pair for pair in self._jobs if pair not in over]
        return [_end(job, run) for job, run in over]

    def close(self) -> None:
        for job, _ in self._jobs:
            job.cancel(check=False)
        deadline = time.monotonic() + SECONDS_TO_END
        while time.monotonic() < deadline and not all(job.done() for job, _ in self._jobs):
            time.sleep(0.2)


def _end(job: submitit.Job[tuple[int, str, str]], run: PlannedRun) -> Ended:
    from submitit.core.utils import FailedJobError, UncompletedJobError

    try:
        return Ended(run, *job.result())
    except FailedJobError as error:  # what no run raises: a library is missing there
        lines = [line for line in str(error).splitlines() if line.strip(" -")]
        return Ended(run, 1, "worker-stopped", f"a job failed: {lines[-1].strip():.200}")
    except UncompletedJobError as error:
        return Ended(run, None, message=str(error).partition("\n")[0][:200])
