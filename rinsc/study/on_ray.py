"""A study as tasks of Ray Core: one task a run, on a cluster or on this machine.

Ray decides where a run goes on, and tells when its worker is lost. Retrying is `engines`' business.
The machines share the folder of the study, and have rinsc installed. Nothing is reported to
anybody: statistics of use are off, and there is no dashboard.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Sequence
from typing import Any

from rinsc.errors import OutputError, setting
from rinsc.extras import require
from rinsc.study.folder import StudyFolder
from rinsc.study.plan import PlannedRun
from rinsc.study.tasks import MOST_AT_ONCE, Ended, Resources, do_run

SECONDS_TO_END = 30.0


class RayEngine:
    """Tasks on the cluster of RAY_ADDRESS; without one, Ray is started for this study alone."""

    def __init__(self, study: StudyFolder, resources: Resources) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if not os.environ.get("RAY_ADDRESS"):
            _keep_others_out()
        require("ray")
        import ray

        self._ray, self._tasks = ray, dict[Any, PlannedRun]()
        self._folder, self._threads = str(study.path.resolve()), resources.threads
        self._is_ours = not ray.is_initialized()
        self.capacity = resources.workers or MOST_AT_ONCE
        if self._is_ours:
            _connect(ray, resources)
        self._remote = ray.remote(do_run).options(
            num_cpus=resources.threads, num_gpus=resources.gpus, max_retries=0, name="rinsc"
        )

    def start(self, runs: Sequence[PlannedRun]) -> None:
        for run in runs:
            self._tasks[self._remote.remote(self._folder, run.name, self._threads)] = run

    def ended(self, seconds: float) -> list[Ended]:
        tasks = list(self._tasks)
        self._ray.wait(tasks, num_returns=1, timeout=seconds)
        ready, _ = self._ray.wait(tasks, num_returns=len(tasks), timeout=0)
        return [self._end(task) for task in ready]

    def close(self) -> None:
        for task in self._tasks:
            self._ray.cancel(task, recursive=False)  # as an interrupt, which leaves a checkpoint
        tasks = list(self._tasks)
        if tasks:
            self._ray.wait(tasks, num_returns=len(tasks), timeout=SECONDS_TO_END)
        if self._is_ours:
            self._ray.shutdown()

    def _end(self, task: Any) -> Ended:
        run, errors = self._tasks.pop(task), self._ray.exceptions
        try:
            return Ended(run, *self._ray.get(task))
        except errors.TaskCancelledError as error:
            return Ended(run, None, message=_first_line(error))
        except errors.RayTaskError as error:  # what no run raises: a library is missing there
            return Ended(
                run, 1, "worker-stopped", f"a task of Ray failed: {_first_line(error.cause)}"
            )
        except errors.RayError as error:
            return Ended(run, None, message=_first_line(error))


def _keep_others_out() -> None:
    """What Ray starts for this study listens on all networks and runs whatever it is sent, unless
    who sends it has a token."""
    os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _connect(ray: Any, resources: Resources) -> None:
    address = os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": address}
    if not address:
        count = max(resources.workers, (os.cpu_count() or 1) // resources.threads, 1)
        options = {
            "address": "local",
            "num_cpus": count * resources.threads,
            "include_dashboard": False,
        }
    try:
        ray.init(**options, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        message = f"Ray does not answer: {_first_line(error)}"
        here = setting('on="local"', "--on local")
        hint = f"check RAY_ADDRESS and the cluster, or run with {here}"
        raise OutputError("no-cluster", message, place=address, hint=hint) from None


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {text:.200}"
