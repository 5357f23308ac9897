"""``rinsc doctor --distributed``: real processes, real failures, nothing left behind."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from rinsc.backends.torch import distributed_check as distributed_launch
from rinsc.backends.torch.distributed_check import check_gradients
from rinsc.errors import RinscError
from tests.cli.command_line import run_cli

# What each process of the check imports first: gradients that DDP does not reduce.
UNSYNCED = """
from torch.nn.parallel import DistributedDataParallel as DDP

made = DDP.__init__

def broken(self, *args, **kwargs):
    made(self, *args, **kwargs)
    self.require_backward_grad_sync = False

DDP.__init__ = broken
"""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """Every process that the check starts."""
    processes: list[subprocess.Popen[bytes]] = []
    start = distributed_launch._start

    def remembered(folder: Path, rank: int) -> subprocess.Popen[bytes]:
        processes.append(start(folder, rank))
        return processes[-1]

    monkeypatch.setattr(distributed_launch, "_start", remembered)
    return processes


def test_what_is_printed() -> None:
    result = run_cli("doctor", "--distributed")
    assert result.status == 0, result.err
    lines = result.out.splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "DDP",
        "FSDP2, recursed blocks pinned",
        "FSDP2, recursed blocks resharded",
    ]
    assert all(line.rstrip().endswith("ok") for line in lines[2:])


def test_a_broken_reduction_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text(UNSYNCED)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    result = run_cli("doctor", "--distributed", "--json")
    assert result.status == 1
    document = json.loads(result.out)
    assert not document["passed"]
    assert [row["passed"] for row in document["rows"]] == [False, True, True]
    assert document["rows"][0]["difference"] > 1e-2


def test_processes_that_cannot_meet(
    monkeypatch: pytest.MonkeyPatch, started: list[subprocess.Popen[bytes]]
) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "missing0")
    result = run_cli("doctor", "--distributed")
    assert result.status == 1
    assert result.out == ""
    assert "error[distributed-failed]: process " in result.err
    assert "missing0" in result.err
    assert "hint: " in result.err
    assert "Traceback" not in result.err
    assert [process.poll() is not None for process in started] == [True, True]


def test_processes_that_hang(started: list[subprocess.Popen[bytes]]) -> None:
    with pytest.raises(RinscError, match="did not end in time"):
        check_gradients(timeout_seconds=0.1)
    assert [process.poll() is not None for process in started] == [True, True]
