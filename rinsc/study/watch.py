"""How far a study is, looked at again and again while its runs are done elsewhere."""

from __future__ import annotations

import time

from rinsc.errors import plural
from rinsc.progress import Observer
from rinsc.study.folder import StudyFolder, run_state
from rinsc.study.plan import Plan, PlannedRun
from rinsc.study.tuning import Decisions, decisions

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
