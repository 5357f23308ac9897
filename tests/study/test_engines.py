"""The engines of a study: equal results on each, and what becomes of workers that end."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from submitit.local.local import LocalJob

from rinsc.data import cache
from rinsc.errors import OutputError
from rinsc.study import engines, lease, working
from rinsc.study.emit import emit
from rinsc.study.engines import hand_out
from rinsc.study.folder import StudyFolder, read_plan, run_state
from rinsc.study.on_slurm import SlurmEngine
from rinsc.study.plan import PlannedRun
from rinsc.study.tasks import Ended, Resources, do_run
from rinsc.study.workers import Watch
from rinsc.study.working import work
from tests.cli.command_line import run_cli
from tests.study.test_study import TEXT, children, planned, weights

RINSC = (sys.executable, "-m", "rinsc")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The digests of a study that one process did without an interruption."""
    folder = planned(tmp_path_factory.mktemp("whole"))
    work(folder)
    return weights(folder)


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a cluster of Ray with two nodes, each with processes of its own."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    from ray.cluster_utils import Cluster

    nodes = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    nodes.add_node(num_cpus=1)
    yield str(nodes.address)
    nodes.shutdown()


def test_ray_gives_the_results_of_one_process(
    whole: dict[str, str], cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = planned(tmp_path / "a study's")
    monkeypatch.setenv("RAY_ADDRESS", cluster)
    broken = read_plan(folder).runs[0]
    (folder / "runs").mkdir()
    (folder / "runs" / broken.name).write_text("a file where a folder is needed")
    command = (*RINSC, "study", "run", str(folder), "--on", "ray", "--json")
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    states = [state["state"] for state in json.loads(done.stdout)]
    assert (done.returncode, states) == (1, ["failed"] + ["finished"] * 5), done.stderr
    (folder / "runs" / broken.name).unlink()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    kill_a_worker(folder)
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 0, out
    assert weights(folder) == whole


def kill_a_worker(folder: Path) -> None:
    """Kill the process of the first lease that is seen."""
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline:
        for path in (folder / "runs").glob("*.lease"):
            with suppress(OSError, ValueError):
                os.kill(json.loads(path.read_text())["process"], signal.SIGKILL)
                return
        time.sleep(0.01)
    raise AssertionError("no worker has begun")


class Scripted:
    """An engine in this process: the first tasks of a run end as they are told to, and the next
    ones do it."""

    def __init__(self, folder: Path, ends: dict[str, list[int | None]], capacity: int = 2) -> None:
        self.capacity, self.begun = capacity, list[str]()
        self._folder, self._ends, self._ready = folder, ends, list[Ended]()

    def start(self, runs: Sequence[PlannedRun]) -> None:
        for run in runs:
            self.begun.append(run.name)
            if ends := self._ends.get(run.name):
                self._ready.append(Ended(run, ends.pop(0), message="as it was told"))
            else:
                self._ready.append(Ended(run, *do_run(str(self._folder), run.name, 1)))
        assert len(self._ready) <= self.capacity

    def ended(self, seconds: float) -> list[Ended]:
        ready, self._ready = self._ready, []
        return ready

    def close(self) -> None:
        """Nothing goes on."""


def handed_out(folder: Path, ends: dict[str, list[int | None]]) -> Scripted:
    engine = Scripted(folder, ends)
    (folder / "runs").mkdir(exist_ok=True)
    watch = Watch(StudyFolder(folder), read_plan(folder), lambda done, state="": None)
    hand_out(watch, engine)
    assert not watch.left
    return engine


def test_a_text_is_tokenized_once_for_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, build = [], cache._build

    def counted(entry: Path, *arguments: Any) -> Any:
        built.append(entry)
        return build(entry, *arguments)

    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "tokens"))
    monkeypatch.setattr(cache, "_build", counted)
    assert work(planned(tmp_path / "study", budgets=["1e8"], seeds=[1])) == 3
    assert len(built) == 1


def test_runs_are_retried_by_how_they_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_SECONDS", 0.0)
    folder = planned(tmp_path, budgets=["1e8"])
    lost, busy, ended, *_ = [run.name for run in read_plan(folder).runs]
    ends: dict[str, list[int | None]] = {lost: [None, None], busy: [75] * 6, ended: [143, 130]}
    begun = handed_out(folder, ends).begun
    assert [begun.count(name) for name in (lost, busy, ended)] == [3, 7, 3]
    assert len(begun) == 3 + 7 + 3 + 3


@pytest.mark.parametrize("end", [1, 2, None])
def test_what_every_run_would_meet_ends_the_study_with_one_error(
    tmp_path: Path, end: int | None
) -> None:
    folder = planned(tmp_path, budgets=["1e8"])
    first = read_plan(folder).runs[0].name
    with pytest.raises(OutputError, match="as it was told") as caught:
        handed_out(folder, {first: [end] * 20})
    assert caught.value.code == "worker-stopped"


def test_a_run_that_failed_is_given_to_no_engine_again(tmp_path: Path) -> None:
    folder = planned(tmp_path, data=f"text:{tmp_path}/none", seeds=[1])
    assert len(handed_out(folder, {}).begun) == 3


def test_an_engine_gets_a_run_once_its_learning_rate_is_decided(tmp_path: Path) -> None:
    tuning = {"trials": 3, "seeds": [9], "budgets": ["1e8"]}
    folder = planned(tmp_path, budgets=["1e8"], seeds=[1], variants=[], tuning=tuning)
    plan = read_plan(folder)
    begun = handed_out(folder, {}).begun
    assert sorted(begun[:3]) == sorted(run.name for run in plan.trials)
    assert begun[3:] == [run.name for run in plan.runs]
    assert len(emit(folder, "shell").splitlines()) == 4


def test_jobs_of_submitit_give_the_results_of_one_process(
    whole: dict[str, str], tmp_path: Path
) -> None:
    folder = planned(tmp_path / "a study's", seeds=[1])
    command = (*RINSC, "study", "run", str(folder), "--on", "slurm-local", "--workers", "2")
    process = subprocess.Popen((*command, "--slurm", "partition=long"), stdout=subprocess.PIPE)
    kill_a_worker(folder)
    process.communicate(timeout=200)
    assert process.returncode == 0
    assert weights(folder) == {run.name: whole[run.name] for run in read_plan(folder).runs}


def test_a_job_whose_time_is_up_is_put_into_the_queue_again(tmp_path: Path) -> None:
    folder = planned(tmp_path, variants=[], seeds=[1], budgets=["1e9"])
    study, (run,) = StudyFolder(folder), read_plan(folder).runs
    engine = SlurmEngine(study, Resources(), "local")
    try:
        engine.start([run])
        (job, _) = engine._jobs[0]
        deadline = time.monotonic() + 60
        while not list(study.run(run).path.glob("checkpoint-*")):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert isinstance(job, LocalJob)
        tasks = children(int(job.job_id))
        for task in tasks:
            os.kill(task, signal.SIGUSR2)  # as Slurm does before the time is up
        ended: list[Ended] = []
        while not ended:
            assert time.monotonic() < deadline + 60
            ended = engine.ended(0.2)
    finally:
        engine.close()
    assert [end.status for end in ended] == [0]
    assert json.loads(study.starts(run).read_text())["step"] > 0  # it was begun a second time
    assert run_state(study, run).state == "finished"


def test_a_worker_without_a_coordinator_begins_no_other_run(tmp_path: Path) -> None:
    folder = planned(tmp_path)
    code = f"""
import signal, time
from rinsc.study import working
def last_step(study, plan, run):  # no signal ends it
    is_told = []
    signal.signal(signal.SIGTERM, lambda *_: is_told.append(True))
    print("begun", flush=True)
    while not is_told:
        time.sleep(0.01)
    study.end(run, "diverged", "")
working._do = last_step
working.work({str(folder)!r})
"""
    environment = {**os.environ, working.LEASH: "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    process.stdin.close()  # as when the coordinator is killed
    assert process.wait(timeout=20) == 143
    assert len(list((folder / "runs").glob("*.outcome"))) == 1


def test_ray_of_this_machine_reports_nothing_and_keeps_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    options: dict[str, object] = {}

    def init(**values: object) -> None:
        options.update(values, token=os.environ["RAY_AUTH_TOKEN"])
        raise ConnectionError("nothing is started here")

    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_USAGE_STATS_ENABLED"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    status, out, err = run_cli("study", "run", str(planned(tmp_path)), "--on", "ray")
    assert (status, out) == (1, "")
    assert "error[no-cluster]: Ray does not answer" in err
    assert (options["address"], options["include_dashboard"]) == ("local", False)
    assert len(str(options["token"])) == 64
    assert os.environ["RAY_AUTH_MODE"] == "token"
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_slurm_without_sbatch_is_one_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    status, out, err = run_cli("study", "run", str(planned(tmp_path / "study")), "--on", "slurm")
    assert (status, out) == (2, "")
    assert "error[no-slurm]" in err


NAMES = {  # of the API of Kubernetes, batch/v1 and v1: the fields that may stand in each
    "": {"apiVersion", "kind", "metadata", "spec"},
    "metadata": {"name", "labels", "annotations", "namespace"},
    "spec": {
        *("completionMode", "completions", "parallelism", "backoffLimitPerIndex"),
        *("maxFailedIndexes", "podFailurePolicy", "template", "suspend", "backoffLimit"),
    },
    "spec.podFailurePolicy": {"rules"},
    "spec.podFailurePolicy.rules": {"action", "onExitCodes", "onPodConditions"},
    "spec.podFailurePolicy.rules.onExitCodes": {"containerName", "operator", "values"},
    "spec.podFailurePolicy.rules.onPodConditions": {"type", "status"},
    "spec.template": {"metadata", "spec"},
    "spec.template.spec": {
        *("restartPolicy", "terminationGracePeriodSeconds", "containers", "volumes"),
    },
    "spec.template.spec.containers": {
        *("name", "image", "command", "args", "env", "resources", "volumeMounts"),
    },
    "spec.template.spec.containers.env": {"name", "value"},
    "spec.template.spec.containers.resources": {"requests", "limits"},
    "spec.template.spec.containers.resources.requests": {"cpu", "memory"},
    "spec.template.spec.containers.resources.limits": {"cpu", "memory", "nvidia.com/gpu"},
    "spec.template.spec.containers.volumeMounts": {"name", "mountPath"},
    "spec.template.spec.volumes": {"name", "persistentVolumeClaim"},
    "spec.template.spec.volumes.persistentVolumeClaim": {"claimName"},
}


def unknown_fields(value: object, path: str = "") -> list[str]:
    if isinstance(value, list):
        return [name for item in value for name in unknown_fields(item, path)]
    if not isinstance(value, dict):
        return []
    below = [
        name
        for key, item in value.items()
        for name in unknown_fields(item, f"{path}.{key}".lstrip("."))
    ]
    return [f"{path}.{key}" for key in value.keys() - NAMES[path]] + below


def test_the_job_of_kubernetes_has_an_index_for_each_run(tmp_path: Path) -> None:
    folder, image = planned(tmp_path), 'registry.example/"a": #b'
    options = ("--gpus", "1", "--image", image, "--workers", "4", "--threads", "2")
    status, out, _ = run_cli("study", "emit", str(folder), "--as", "k8s", *options)
    job = yaml.safe_load(out)
    assert (status, unknown_fields(job)) == (0, [])
    assert (job["apiVersion"], job["kind"]) == ("batch/v1", "Job")
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", job["metadata"]["name"])
    spec, pod = job["spec"], job["spec"]["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 6, 4)
    assert spec["backoffLimitPerIndex"] > 0
    assert spec["maxFailedIndexes"] <= spec["completions"]
    first, second, third = spec["podFailurePolicy"]["rules"]
    (container,) = pod["containers"]
    assert first["action"] == "FailIndex"
    assert first["onExitCodes"] == {
        **{"containerName": container["name"], "operator": "In", "values": [1, 2]},
    }
    assert (second["action"], second["onExitCodes"]["values"]) == ("Ignore", [75, 143])
    assert third == {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}
    assert pod["restartPolicy"] == "Never"  # which a failure policy needs
    assert container["image"] == image
    assert all(isinstance(item["value"], str) for item in container["env"])
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    (volume,), (mount,) = pod["volumes"], container["volumeMounts"]
    assert volume["name"] == mount["name"]
    stand_in = 'rinsc() { echo "$@"; }; ' + container["command"][2].removeprefix("exec ")
    environment = {**os.environ, "JOB_COMPLETION_INDEX": "3"}
    printed = subprocess.run([*container["command"][:2], stand_in], env=environment, stdout=-1)
    assert printed.stdout.decode() == f"study work {mount['mountPath']} --run 3\n"


def test_lines_and_scripts_are_run_by_xargs_and_bash(whole: dict[str, str], tmp_path: Path) -> None:
    folder = planned(tmp_path / 'it\'s a "study"; $(false) & %j {} `x`', seeds=[1])
    lines, script = tmp_path / "lines", tmp_path / "script"
    assert run_cli("study", "emit", str(folder), "--as", "shell", "-o", str(lines)).status == 0
    subprocess.run(["bash", "-n", str(lines)], check=True)
    command = ["xargs", "-d", "\n", "-P", "2", "-I{}", "sh", "-c", "{}"]
    subprocess.run(command, stdin=lines.open(), stderr=subprocess.DEVNULL, check=True, timeout=200)
    expected = {run.name: whole[run.name] for run in read_plan(folder).runs}
    assert weights(folder) == expected
    shutil.rmtree(folder / "runs" / read_plan(folder).runs[1].name)
    options = ("--slurm", 'comment=it\'s "ours"', "--slurm", "time=60", "--workers", "5")
    out = run_cli("study", "emit", str(folder), "--as", "slurm", "-o", str(script), *options)
    assert out.status == 0
    subprocess.run(["bash", "-n", str(script)], check=True)
    directives = [line for line in script.read_text().splitlines() if line.startswith("#SBATCH")]
    assert "#SBATCH --array=0-2%5" in directives
    (comment,) = [line for line in directives if "comment" in line]
    assert shlex.split(comment.partition(" ")[2]) == ['--comment=it\'s "ours"']
    environment = {**os.environ, "SLURM_ARRAY_TASK_ID": "1"}
    subprocess.run(["bash", str(script)], env=environment, check=True, timeout=100)
    assert weights(folder) == expected


@pytest.mark.parametrize(
    ("end", "status", "is_requeued"),
    [("exit 0", 0, False), ("exit 1", 1, False), ("exit 75", 75, True), ("kill -9 $$", 137, True)],
)
def test_the_script_of_slurm_queues_again_what_another_try_may_do(
    tmp_path: Path, end: str, status: int, is_requeued: bool
) -> None:
    text = emit(planned(tmp_path / "study"), "slurm").replace(sys.executable, "worker", 1)
    for name, code in (("worker", end), ("scontrol", f"echo $@ > {tmp_path}/queued")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        **{"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "2"},
        "SLURM_ARRAY_JOB_ID": "7",
    }
    assert subprocess.run(["bash", "-c", text], env=environment).returncode == status
    queued = tmp_path / "queued"
    assert (queued.read_text() if queued.exists() else "") == "requeue 7_2\n" * is_requeued


def test_the_script_of_slurm_passes_the_signal_on(tmp_path: Path) -> None:
    text = emit(planned(tmp_path / "study"), "slurm").replace(sys.executable, "worker", 1)
    (tmp_path / "worker").write_text(
        f"#!/bin/bash\ntrap 'touch {tmp_path}/told; exit 143' TERM\n"
        f"touch {tmp_path}/begun\nwhile :; do sleep 0.05; done\n"
    )
    (tmp_path / "worker").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SLURM_ARRAY_TASK_ID": "0"}
    process = subprocess.Popen(["bash", "-c", text], env=environment)
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    process.terminate()
    assert process.wait(timeout=20) == 143
    assert (tmp_path / "told").exists()


def test_a_folder_whose_name_breaks_lines_is_one_error(tmp_path: Path) -> None:
    folder = planned(tmp_path / "a\nb")
    status, out, err = run_cli("study", "emit", str(folder), "--as", "shell")
    assert (status, out) == (2, "")
    assert "error[bad-folder]" in err


@pytest.mark.parametrize("option", ["partition", "=long", "a b=c", "--time=1", "x=1\n#SBATCH y"])
def test_what_is_no_option_of_sbatch_is_one_error(tmp_path: Path, option: str) -> None:
    folder = str(planned(tmp_path))
    for command in (("run", folder, "--on", "slurm-local"), ("emit", folder, "--as", "slurm")):
        status, out, err = run_cli("study", *command, f"--slurm={option}")
        assert (status, out) == (2, ""), err
        assert "is not an option of sbatch" in err


def test_a_full_disk_is_one_error_and_loses_nothing(whole: dict[str, str], tmp_path: Path) -> None:
    folder = planned(tmp_path)
    run = shlex.join([*RINSC, "study", "run", str(folder), "--workers", "1"])
    full = subprocess.run(["bash", "-c", f"ulimit -f 80; {run}"], capture_output=True, text=True)
    assert full.returncode == 1
    assert re.findall(r"error\[([\w-]+)\]", full.stderr) == ["cannot-write"], full.stderr
    assert "Traceback" not in full.stderr
    states = [run_state(StudyFolder(folder), run).state for run in read_plan(folder).runs]
    assert set(states) == {"waiting"}
    assert subprocess.run(["bash", "-c", run], capture_output=True).returncode == 0
    assert weights(folder) == whole


def test_the_exit_status_says_what_became_of_a_run(tmp_path: Path) -> None:
    text = tmp_path / "text"
    folder = planned(tmp_path / "study", data=f"text:{text}", seeds=[1], variants=["A^2B"])
    status, _, err = run_cli("study", "work", str(folder), "--run", "0")
    assert status == 1  # there is no text
    assert "failed" in err
    shutil.copytree(TEXT, text)
    assert run_cli("study", "work", str(folder), "--run", "0").status == 0  # it is tried again
    assert run_cli("study", "work", str(folder), "--run", "9").status == 2


def test_a_run_of_somebody_else_is_tried_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(working, "PATIENCE_SECONDS", 0.0)
    folder = planned(tmp_path, seeds=[1], variants=[])
    study, (run,) = StudyFolder(folder), read_plan(folder).runs
    (folder / "runs").mkdir()
    with lease.taken_alone(study.lock(run)) as is_ours:
        assert is_ours
        assert run_state(study, run).state == "running"
        assert run_cli("study", "work", str(folder), "--run", "0").status == 75
    assert run_state(study, run).state == "waiting"


@pytest.fixture(params=["locks", "no locks"])
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """File systems whose locks hold on one machine alone, or that have none."""
    if request.param == "no locks":

        def refuse(descriptor: int, operation: int) -> None:
            raise OSError(errno.ENOLCK, "no locks available")

        monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.usefixtures("shared")
def test_a_lease_of_another_machine_holds_until_it_is_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, left = tmp_path / "run.lock", tmp_path / "run.lease"
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.01)
    with lease.taken_alone(lock) as is_ours:
        assert is_ours
        text = left.read_text()
    assert not left.exists()
    lock.touch()
    left.write_text(text.replace(socket.gethostname(), "another"))
    assert lease.is_taken(lock)
    with lease.taken_alone(lock) as is_ours:
        assert not is_ours
    past = time.time() - lease.STALE_SECONDS - 1
    os.utime(left, (past, past))
    assert not lease.is_taken(lock)
    with lease.taken_alone(lock) as is_ours:
        assert is_ours


def test_where_there_are_no_locks_the_lease_alone_keeps_others_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "not implemented")

    monkeypatch.setattr("fcntl.flock", refuse)
    lock = tmp_path / "run.lock"
    with lease.taken_alone(lock) as first, lease.taken_alone(lock) as second:
        assert (first, second) == (True, False)
    folder = planned(tmp_path / "study", seeds=[1], variants=[], budgets=["1e8"])
    assert work(folder) == 1


def test_of_many_that_take_over_a_stale_lease_one_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.2)
    (tmp_path / "run.lock").touch()
    (tmp_path / "run.lease").write_text('{"machine": "gone", "token": "0"}')
    os.utime(tmp_path / "run.lease", (0, 0))
    start, end, owners = threading.Barrier(16), threading.Barrier(16), []

    def take() -> None:
        start.wait()
        with lease.taken_alone(tmp_path / "run.lock") as is_ours:
            owners.append(is_ours)
            end.wait()

    threads = [threading.Thread(target=take) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(owners) == [False] * 15 + [True]


def test_a_worker_whose_lease_was_taken_over_writes_nothing_more(tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from rinsc.study import lease
lease.BEAT_SECONDS = 0.05
with lease.taken_alone(Path({str(tmp_path / "run.lock")!r})):
    Path({str(tmp_path / "run.lease")!r}).write_text('{{"machine": "another", "token": "0"}}')
    time.sleep(60)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=30).returncode == 143
    assert (tmp_path / "run.lease").exists()
