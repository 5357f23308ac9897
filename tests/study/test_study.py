"""Studies that run: killed and repeated, with runs that fail, diverge or are damaged."""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rinsc.errors import RinscError, UsageError
from rinsc.study.engines import run_study
from rinsc.study.folder import StudyFolder, read_plan, run_state, write_plan
from rinsc.study.plan import PlannedRun, plan_study
from rinsc.study.report import study_report
from rinsc.study.working import work, work_on
from rinsc.training.checkpoint import checkpoints
from rinsc.training.schedules import stable_steps
from tests.cli.command_line import run_cli
from tests.study.test_plan import study

TEXT = Path(__file__).resolve().parents[2] / "docs"


def planned(folder: Path, **changes: Any) -> Path:
    settings = {"batch_sequences": 2, "eval_windows": 4, "checkpoint_every": 5}
    values = {"data": f"text:{TEXT}", "settings": settings, "budgets": ["4e8"], **changes}
    write_plan(plan_study(study(**values)), folder)
    return folder


def weights(folder: Path) -> dict[str, str]:
    """The digest of each run's weights and of its held-out figures."""
    found = {}
    for run in read_plan(folder).runs:
        place = folder / "runs" / run.name
        result = json.loads((place / "result.json").read_text())
        data = (place / "model.safetensors").read_bytes()
        found[run.name] = hashlib.sha256(data).hexdigest() + str(result["bits_per_byte"])
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that ran without an interruption, in this process."""
    folder = planned(tmp_path_factory.mktemp("whole"))
    assert work(folder) == 6
    return folder


def test_every_run_has_a_result_and_the_report_ranks_them(whole: Path) -> None:
    report = study_report(whole)
    assert [each.state for each in report.states] == ["finished"] * 6
    (ranking,) = report.rankings.values()
    by_hand: dict[str, list[float]] = {}
    for run in read_plan(whole).runs:
        facts = json.loads((whole / "runs" / run.name / "result.json").read_text())
        by_hand.setdefault(run.variant, []).append(facts["bits_per_byte"])
    for item in ranking.ranks:
        assert item.loss == pytest.approx(sum(by_hand[item.variant]) / 2)
    assert work(whole) == 0  # nothing is left


def test_killed_coordinators_and_workers_change_no_bit(whole: Path, tmp_path: Path) -> None:
    folder, chance = planned(tmp_path / "killed"), random.Random(0)
    command = [sys.executable, "-m", "rinsc", "study", "run", str(folder), "--workers", "2"]
    for _ in range(3):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        time.sleep(chance.uniform(5, 9))
        for child in children(process.pid)[:1]:
            os.kill(child, signal.SIGKILL)
        time.sleep(chance.uniform(0, 2))
        process.kill()
        process.wait()
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert {each["state"] for each in json.loads(done.stdout)} == {"finished"}
    assert weights(folder) == weights(whole)


def test_budgets_from_one_trunk_have_the_weights_of_runs_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``wsd`` longer runs begin with the steps of shorter ones, and nothing else changes."""
    settings = {"batch_sequences": 2, "eval_windows": 4, "schedule": "wsd", "warmup_steps": 2}
    settings |= {"keep": 9}
    values = {"settings": settings, "budgets": ["4e8", "8e8", "1.6e9"], "seeds": [1]}
    chain = planned(tmp_path / "chain", **values)
    work(chain)
    alone = planned(tmp_path / "alone", **values)
    with monkeypatch.context() as patch:
        patch.setattr("rinsc.study.working._take_first_steps", lambda *_: None)
        work(alone)
    assert weights(chain) == weights(alone)
    runs = read_plan(chain).runs
    steps = {run.name: [item.step for item in checkpoints(folder_of(chain, run))] for run in runs}
    for run in runs:
        shorter = [
            o for o in runs if o.variant == run.variant and o.config.steps < run.config.steps
        ]
        for other in sorted(shorter, key=lambda item: item.config.steps)[-1:]:
            assert stable_steps(other.config) in steps[run.name]
        at_the_end = {stable_steps(run.config), run.config.steps}
        assert at_the_end <= set(steps[run.name])


def folder_of(study_folder: Path, run: PlannedRun) -> Path:
    return study_folder / "runs" / run.name


def children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(each) for each in text.split()]


def test_a_worker_ends_with_its_coordinator(tmp_path: Path) -> None:
    folder = planned(tmp_path, budgets=["1e13"])
    command = [sys.executable, "-m", "rinsc", "study", "run", str(folder), "--workers", "1"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    logs = tmp_path / "runs"  # a line in a log: it has begun, and a signal leaves a checkpoint
    while not any(log.stat().st_size for log in logs.glob("*/metrics.jsonl")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (worker,) = children(process.pid)
    process.kill()
    process.wait()
    deadline = time.monotonic() + 60
    while Path(f"/proc/{worker}").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not Path(f"/proc/{worker}").exists()
    assert list((tmp_path / "runs").glob("*/checkpoint-*"))  # it ended as on a signal


def test_a_diverged_run_is_a_result_and_stops_no_other(tmp_path: Path) -> None:
    settings = {"batch_sequences": 2, "eval_windows": 4, "learning_rate": 1e30, "clip": 1e30}
    folder = planned(tmp_path, settings=settings, seeds=[1])
    status, out, _ = run_cli("study", "run", str(folder), "--workers", "1")
    assert "3 diverged" in out
    assert status == 0
    assert "no finished run" in "\n".join(study_report(folder).notes)


def test_a_broken_variant_stops_no_other(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rinsc.training.start as start

    right = start.planned_run

    def broken(spec: Any, *args: Any, **options: Any) -> Any:
        if spec.text == "A^2B":
            raise ZeroDivisionError("a kind of somebody else's")
        return right(spec, *args, **options)

    monkeypatch.setattr(start, "planned_run", broken)
    folder = planned(tmp_path)
    work(folder)
    report = study_report(folder)
    assert sorted(each.state for each in report.states) == ["failed"] * 2 + ["finished"] * 4
    assert "ZeroDivisionError: a kind of somebody else's" in "\n".join(report.notes)
    (ranking,) = report.rankings.values()
    assert {item.variant for item in ranking.ranks} == {"AB", "AB^2"}


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_damaged_result_is_one_line(copy: Path) -> None:
    first, second, third = read_plan(copy).runs[:3]
    result = copy / "runs" / first.name / "result.json"
    result.write_text(result.read_text().replace("bits_per_byte", "bits_per_bite"))
    (copy / "runs" / second.name / "result.json").write_bytes(b"[" * 10_000)
    shutil.rmtree(copy / "runs" / third.name)
    shutil.copytree(copy / "runs" / read_plan(copy).runs[-1].name, copy / "runs" / third.name)
    status, out, err = run_cli("study", "status", str(copy))
    assert (status, err) == (0, "")
    assert "3 finished, 3 failed" in out
    assert "of another run" in out
    status, out, _ = run_cli("study", "report", str(copy), "--json")
    assert status == 0
    assert json.loads(out)["states"]["failed"] == 3


def test_a_damaged_result_is_written_anew_when_the_command_is_repeated(
    whole: Path, copy: Path
) -> None:
    for index, run in enumerate(read_plan(copy).runs[:2]):
        result = folder_of(copy, run) / "result.json"
        text = result.read_text()
        result.write_text("" if index else text.replace('"bits_per_byte": ', '"bits_per_byte": 9'))
        assert run_state(StudyFolder(copy), run).state == "failed"
    assert {state.state for state in run_study(copy, workers=1)} == {"finished"}
    assert weights(copy) == weights(whole)
    assert len(list((copy / "runs").glob("*/result.json.damaged"))) == 2


def test_a_damaged_plan_is_mended_by_the_same_one_alone(copy: Path) -> None:
    path, plan = copy / "plan.json", read_plan(copy)
    path.write_text(path.read_text()[:500])
    with pytest.raises(RinscError, match="another plan"):
        planned(copy, budgets=["5e8"])
    write_plan(plan, copy)
    assert read_plan(copy) == plan


@pytest.mark.parametrize(
    ("on", "number"), [("slurm-local", signal.SIGTERM), ("local", signal.SIGHUP)]
)
def test_a_coordinator_that_is_told_to_end_leaves_nobody(
    tmp_path: Path, on: str, number: signal.Signals
) -> None:
    if on == "slurm-local":
        pytest.importorskip("submitit")
    folder = planned(tmp_path, budgets=["1e13"])
    command = [sys.executable, "-m", "rinsc", "study", "run", str(folder), "--on", on]
    process = subprocess.Popen([*command, "--workers", "1"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 90
    while not list((tmp_path / "runs").glob("*.starts")):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    (lease,) = (tmp_path / "runs").glob("*.lease")
    worker = Path(f"/proc/{json.loads(lease.read_text())['process']}")
    assert worker.exists()
    process.send_signal(number)
    assert process.wait(timeout=90) == 128 + number
    deadline = time.monotonic() + 20  # submitit's own process ends a little before its job
    while worker.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not worker.exists()
    assert not list((tmp_path / "runs").glob("*/result.json"))


def test_two_coordinators_are_one_error(copy: Path) -> None:
    with open(copy / ".lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, out, err = run_cli("study", "run", str(copy))
    assert (status, out) == (1, "")
    assert "error[study-in-use]" in err


def test_a_run_that_always_ends_its_worker_is_given_up(copy: Path) -> None:
    run, study_folder = read_plan(copy).runs[0], StudyFolder(copy)
    shutil.rmtree(copy / "runs" / run.name)
    for _ in range(8):
        study_folder.count_start(run, 0)
    work(copy)
    found = run_state(study_folder, run)
    assert found.state == "failed"
    assert "8 workers ended at it" in found.message


def test_one_run_can_be_named(copy: Path) -> None:
    run = read_plan(copy).runs[2]
    shutil.rmtree(copy / "runs" / run.name)
    assert work_on(copy, "2").state == "finished"
    assert work_on(copy, run.name).state == "finished"
    status, _, err = run_cli("study", "work", str(copy), "--run", "99")
    assert status == 2
    assert "from 0 to 5" in err


def test_results_are_written_for_rinsc_fit(copy: Path, tmp_path: Path) -> None:
    target = tmp_path / "runs.csv"
    assert run_cli("study", "report", str(copy), "-o", str(target)).status == 0
    lines = target.read_text().splitlines()
    assert len(lines) == 7
    status, _, err = run_cli("fit", str(target))
    assert status == 1
    assert "error[too-few-budgets]" in err  # it read the columns
    status, _, err = run_cli("study", "report", str(copy), "-o", str(tmp_path / "report.txt"))
    assert status == 2
    assert "report.html" in err


@pytest.mark.parametrize("command", ["run", "status", "report", "work"])
def test_a_folder_without_a_study_is_one_error(tmp_path: Path, command: str) -> None:
    status, out, err = run_cli("study", command, str(tmp_path / "none"))
    assert (status, out) == (1, "")
    assert "error[no-study]" in err
    assert not (tmp_path / "none").exists()


def test_a_full_study_is_repeated_without_workers(whole: Path) -> None:
    assert {each.state for each in run_study(whole, workers=3)} == {"finished"}


def test_what_failed_is_tried_again_when_the_command_is_repeated(tmp_path: Path) -> None:
    text = tmp_path / "text"
    folder = planned(tmp_path / "study", data=f"text:{text}", seeds=[1], variants=[])
    status, out, _ = run_cli("study", "run", str(folder), "--workers", "1")
    assert status == 1
    assert "1 failed" in out
    shutil.copytree(TEXT, text)
    status, out, _ = run_cli("study", "run", str(folder), "--workers", "1")
    assert (status, out) == (0, "1 run: 1 finished\n")


@pytest.mark.parametrize("option", ["--workers", "--threads"])
@pytest.mark.parametrize("count", ["0", "-1", "9999"])
def test_a_count_of_workers_that_is_none_is_one_error(whole: Path, option: str, count: str) -> None:
    status, out, err = run_cli("study", "run", str(whole), option, count)
    assert (status, out) == (2, "")
    assert f"{option} must be from 1 to 1024" in err


@pytest.mark.parametrize(
    "options",
    [{"threads": None}, {"threads": "two"}, {"workers": 2.5}, {"gpus": "one"}, {"gpus": math.nan}],
)
def test_a_count_from_python_that_is_none_is_one_error(
    whole: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        run_study(whole, **options)


def test_counts_of_numpy_count(whole: Path) -> None:
    counts: Any = np.int64(1)
    assert len(run_study(whole, workers=counts, threads=counts)) == 6
