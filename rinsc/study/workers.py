"""Workers of a study on this machine: processes that do one run after another."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import IO

from rinsc.errors import OutputError
from rinsc.study.folder import MOST_STARTS, StudyFolder
from rinsc.study.watch import Watch
from rinsc.study.working import LEASH, RETRIED

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

    def end(self) -> None:
        """Tell it to end, and wait for its checkpoint."""
        self.process.terminate()
        try:
            self.process.wait(timeout=MOST_SECONDS_TO_END)
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
        for worker in working:
            worker.end()


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
