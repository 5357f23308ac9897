"""Workers of a study on this machine, processes that do one run after another; and the watch over
a study, whose runs may be done elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import IO

from rinsc.errors import OutputError, plural
from rinsc.progress import Observer
from rinsc.study.folder import MOST_STARTS, StudyFolder, run_state
from rinsc.study.plan import Plan, PlannedRun
from rinsc.study.tuning import Decisions, decisions
from rinsc.study.working import LEASH, RETRIED

POLL_SECONDS = 0.2
LEAST_REST = 20  # times as long as a look at many runs takes, so that looking is no work


class Watch:
    """Remembers which runs are over, and looks at the others alone."""

    def __init__(self, study: StudyFolder, plan: Plan, observe: Observer) -> None:
        self.study, self.plan, self.runs = study, plan, plan.jobs
        self.left: dict[str, PlannedRun] = {run.name: run for run in self.runs}
        self._observe = observe
        self._decided: Decisions | None = None
        self.rest_seconds = POLL_SECONDS
        self.look()

    def look(self) -> None:
        """Find out which runs are over by now."""
        begun = time.monotonic()
        over = [run for run in self.left.values() if self.study.is_over(run)]
        for run in over:
            del self.left[run.name]
        if self._decided is None or any(run.trial is not None for run in over):
            self._decided = decisions(self.study, self.plan)
            for run in list(filter(self._decided.is_hopeless, self.left.values())):
                del self.left[run.name]
        count = len(self.runs) - len(self.left)
        self._observe(count / len(self.runs), f"{count} of {plural(len(self.runs), 'run')}")
        self.rest_seconds = max(POLL_SECONDS, LEAST_REST * (time.monotonic() - begun))

    def pause(self) -> None:
        """Let some time pass, and look again."""
        time.sleep(self.rest_seconds)
        self.look()

    def startable(self) -> list[PlannedRun]:
        """Runs that are not over and that can be begun, whether somebody is at them or not."""
        decided = self._decided or decisions(self.study, self.plan)
        return list(filter(decided.is_ready, self.left.values()))

    def waiting(self) -> list[PlannedRun]:
        """Runs that nobody is at, and that can be begun."""
        states = (run_state(self.study, run) for run in self.startable())
        return [state.run for state in states if state.state == "waiting"]


MOST_SECONDS_TO_END = 60
_ERROR = re.compile(r"error\[([\w-]+)\]: (.*)")


@dataclass
class Worker:
    """A process that does runs, and the file that holds what it says."""

    process: subprocess.Popen[bytes]
    output: IO[bytes]

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None as long as it works."""
        return self.process.poll()

    def wait(self, deadline: float) -> None:
        """Wait for its checkpoint, until the deadline."""
        try:
            self.process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def error(self) -> tuple[str, str]:
        """Code and message of the first error in its output."""
        self.output.seek(0)
        match = _ERROR.search(self.output.read().decode("utf-8", "replace"))
        return (match[1], match[2]) if match else ("worker-stopped", "a worker ended")


def work_here(watch: Watch, workers: int, threads: int) -> None:
    """Start workers, replace those that vanish, and wait until no run is left.

    Raises OutputError where a worker cannot go on.
    """
    study, working = watch.study, list[Worker]()
    replacements = MOST_STARTS * len(watch.runs)
    try:
        while watch.left:
            if not working:  # or those that there were found all other runs taken
                working = [_started(study, threads) for _ in watch.waiting()[:workers]]
            watch.pause()
            for worker in [worker for worker in working if worker.status is not None]:
                working.remove(worker)
                status = worker.status or 0
                if status > 0 and status not in RETRIED:
                    raise stopped(study, *worker.error())
                if status != 0 and watch.left:
                    replacements -= 1
                    if replacements < 0:
                        raise stopped(study, "worker-stopped", "workers end again and again")
                    working.append(_started(study, threads))
    finally:
        deadline = time.monotonic() + MOST_SECONDS_TO_END
        for worker in working:  # all are told before one is waited for
            worker.process.terminate()
        for worker in working:
            worker.wait(deadline)


def stopped(study: StudyFolder, code: str, message: str) -> OutputError:
    """What ends a study as it is: something that every further run would meet, too."""
    hint = "mend it and repeat the command: finished runs are kept"
    return OutputError(code, message, place=str(study.path), hint=hint)


def _started(study: StudyFolder, threads: int) -> Worker:
    """A worker of this machine, which ends when this process does."""
    output = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the worker is
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), LEASH: "1"}
    command = [sys.executable, "-P", "-m", "rinsc", "study", "work", str(study.path)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=output,
        env=environment,
    )
    return Worker(process, output)
