"""The engines of a study: equal results on each, and what becomes of workers that end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rinsc.study.folder import StudyFolder, read_plan
from rinsc.study.working import work
from tests.study.test_study import planned, weights

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
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    states = [state["state"] for state in json.loads(done.stdout)]
    assert (done.returncode, states) == (1, ["failed"] + ["finished"] * 5), done.stderr
    (folder / "runs" / broken.name).unlink()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    killed = killed_at(StudyFolder(folder), 0)
    out, _ = process.communicate(timeout=120)
    assert killed
    assert process.returncode == 0, out
    assert weights(folder) == whole


def killed_at(study: StudyFolder, number: int) -> bool:
    """Kill the worker of Ray that is at a run as soon as it has begun to train."""
    run = read_plan(study.path).runs[number]
    deadline = time.monotonic() + 60
    while not study.run(run).metrics.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = any(
                os.readlink(link) == str(study.lock(run).resolve())
                for link in (process / "fd").iterdir()
            )
        except OSError:
            continue
        if is_ours:
            os.kill(int(process.name), signal.SIGKILL)
            return True
    return False
