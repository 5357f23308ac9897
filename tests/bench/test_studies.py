"""Studies at full size: killed fifty times, a worker's time beside training, many states."""

from __future__ import annotations

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rinsc.study import working
from rinsc.study.folder import StudyFolder, read_plan
from rinsc.study.plan import Plan, PlannedRun
from rinsc.study.workers import Watch
from rinsc.training.run_folder import write_result
from tests.study.test_study import children, planned, weights

RUNS, KILLS = 180, 50
OVERHEAD_SECONDS, STATUS_SECONDS = 0.1, 1.0


def test_no_bit_changes_by_fifty_kills(tmp_path: Path) -> None:
    size: dict[str, Any] = {"budgets": ["1e9"], "seeds": list(range(RUNS // 3))}
    whole, folder = planned(tmp_path / "whole", **size), planned(tmp_path / "killed", **size)
    command = [sys.executable, "-m", "rinsc", "study", "run", str(folder), "--workers", "2"]
    chance, kills = random.Random(0), {"coordinator": 0, "worker": 0}
    study, runs, process = StudyFolder(folder), read_plan(folder).runs, None
    while sum(kills.values()) < KILLS:
        if process is None or process.poll() is not None:
            assert process is None or process.returncode != 0, f"over after {kills}"
            process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        goal = sum(map(study.is_over, runs)) + chance.choice((1, 2, 3))  # as slow as this machine
        deadline = time.monotonic() + 60
        while sum(map(study.is_over, runs)) < goal and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(chance.uniform(0, 2))
        workers = children(process.pid)
        if workers and chance.random() < 0.6:
            os.kill(chance.choice(workers), signal.SIGKILL)
            kills["worker"] += 1
        elif process.poll() is None:
            process.kill()
            process.wait()
            kills["coordinator"] += 1
    if process is not None:
        process.kill()
        process.wait()
    left = [run for run in runs if not study.is_over(run)]
    print(f"\n{kills}, {len(left)} of {RUNS} runs were left")
    assert left
    assert subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 0
    working.work(whole)
    assert weights(folder) == weights(whole)


@pytest.fixture
def thousand(tmp_path: Path) -> Path:
    """A study of 1,000 runs of two steps."""
    (tmp_path / "study" / "runs").mkdir(parents=True)
    sizes = {"budgets": ["2steps"], "seeds": list(range(334)), "match": "tokens"}
    return planned(tmp_path / "study", **sizes)


def test_a_run_costs_its_worker_little_beside_training(
    thousand: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(study: StudyFolder, plan: Plan, run: PlannedRun) -> None:
        study.count_start(run, 0)
        study.end(run, "diverged", "it is not trained")

    monkeypatch.setattr(working, "_do", trained)
    wall, spent = time.perf_counter(), time.process_time()
    done = working.work(thousand)
    wall, spent = time.perf_counter() - wall, time.process_time() - spent
    print(f"\na run: {spent / done * 1e3:.1f} ms of CPU time, {wall / done * 1e3:.1f} ms in all")
    assert wall / done < OVERHEAD_SECONDS


def test_who_waits_for_a_thousand_runs_hardly_works(thousand: Path) -> None:
    watch = Watch(StudyFolder(thousand), read_plan(thousand), lambda done, state="": None)
    wall, spent = time.perf_counter(), time.process_time()
    for _ in range(20):
        watch.pause()
    share = (time.process_time() - spent) / (time.perf_counter() - wall)
    print(f"\nwaiting takes {share:.1%} of a core")
    assert share < 0.1


def test_the_status_of_a_thousand_runs(thousand: Path) -> None:
    first, *others = read_plan(thousand).runs
    working.work_on(thousand, first.name)
    study = StudyFolder(thousand)
    for run in others:  # the same result of a run under each name and seed
        shutil.copytree(study.run(first).path, study.run(run).path)
        for path in (study.run(run).result, study.run(run).checksums):
            path.unlink()
        facts = {**json.loads(study.run(first).result.read_text()), "seed": run.seed}
        write_result(study.run(run), facts)
    command = [sys.executable, "-m", "rinsc", "study", "status", str(thousand)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"\nstatus: {spent:.2f} s of CPU time")
    assert "finished" in out
    assert "failed" not in out
    assert spent < STATUS_SECONDS
