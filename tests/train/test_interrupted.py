"""Processes of ``rinsc train`` that are killed, told to stop, or out of disk: the next goes on."""

from __future__ import annotations

import json
import os
import pty
import random
import select
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from rinsc.training.checkpoint import checkpoints, is_whole
from rinsc.training.loop import StopOnSignal
from rinsc.training.run_folder import RunFolder
from tests.cli.command_line import run_cli
from tests.train import processes
from tests.train.runs import timeless

STEPS = 40
MODEL = (
    *("A^3{skip=0.4}B", "--layers", "2", "--width", "16", "--heads", "2", "--kv-heads", "1"),
    *("--mlp-width", "23", "--vocab-size", "270", "--context", "16"),
)
SETTINGS = (
    *("--steps", str(STEPS), "--batch", "2", "--device", "cpu", "--checkpoint-every", "1"),
    *("--eval-every", "7"),
)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "rain.txt"
    lines = [f"On day {day} the rain fell, and the river rose by {day % 7}." for day in range(300)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"text:{path}"


def command(text: str, folder: Path) -> tuple[str, ...]:
    return ("train", *MODEL, "--data", text, "-o", str(folder), *SETTINGS)


@pytest.fixture(scope="module")
def whole(text: str, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The unbroken run."""
    folder = tmp_path_factory.mktemp("whole")
    status, _, err = processes.run(folder, *command(text, folder / "run"))
    assert status == 0, err
    return RunFolder(folder / "run")


def finish(text: str, folder: Path, whole: RunFolder) -> None:
    """The same command again ends the run, and it is the unbroken one to the last bit."""
    status, _, err = processes.run(folder.parent, *command(text, folder))
    assert status == 0, err
    require_same(RunFolder(folder), whole)


def require_same(run: RunFolder, whole: RunFolder) -> None:
    assert [each.step for each in timeless(run)] == [7, 10, 14, 20, 21, 28, 30, 35, 40]
    assert timeless(run) == timeless(whole)
    found, expected = load_file(run.weights), load_file(whole.weights)
    assert found.keys() == expected.keys()
    for name, weight in found.items():
        np.testing.assert_array_equal(weight, expected[name])
    assert _timeless_result(run) == _timeless_result(whole)
    for name in (
        "config.json",
        "tokenizer_config.json",
        "tokenizer.json",
        "train.toml",
        "data.json",
    ):
        assert (run.path / name).read_bytes() == (whole.path / name).read_bytes(), name
    assert not list(run.path.glob(".checkpoint-*"))


def _timeless_result(run: RunFolder) -> dict[str, Any]:
    return {**json.loads(run.result.read_text()), "seconds": 0}


def _steps(folder: Path) -> int:
    found = checkpoints(folder)
    return found[-1].step if found else 0


def test_killed_at_any_moment_it_goes_on_to_the_same_bits(
    text: str, tmp_path: Path, whole: RunFolder
) -> None:
    """Half of the kills fall while a checkpoint is being written."""
    folder, chance = tmp_path / "run", random.Random(7)
    reached, torn = [0], 0
    for goal in (1, 4, 9, 15, 20):
        with processes.started(tmp_path, *command(text, folder)) as running:
            assert running.until(lambda goal=goal: _steps(folder) >= goal)  # type: ignore[misc]
            if chance.random() < 0.5:
                assert running.until(lambda: bool(list(folder.glob(".checkpoint-*.part"))))
            else:
                time.sleep(chance.random() / 30)
            running.send(signal.SIGKILL)
            assert running.wait() == -signal.SIGKILL
        torn += bool(list(folder.glob(".checkpoint-*.part")))
        assert all(is_whole(each) for each in checkpoints(folder))
        reached.append(_steps(folder))
    assert reached == sorted(reached)
    assert 1 < reached[-1] < STEPS
    assert torn
    finish(text, folder, whole)


@pytest.mark.parametrize("goal", ["text", "metrics"])
def test_killed_before_its_first_checkpoint_it_begins_anew(
    text: str, tmp_path: Path, whole: RunFolder, goal: str
) -> None:
    folder = tmp_path / "run"
    name = {"text": "tokenizer.json", "metrics": "metrics.jsonl"}[goal]
    with processes.started(tmp_path, *command(text, folder)) as running:
        assert running.until((folder / name).exists)
        running.send(signal.SIGKILL)
        assert running.wait() == -signal.SIGKILL
    finish(text, folder, whole)


LATE = {
    "before the evaluation": ("model.safetensors", "config.json", "tokenizer_config.json"),
    "between weights and config": ("config.json", "tokenizer_config.json"),
    "before the result": (),
}


@pytest.mark.parametrize("moment", LATE)
@pytest.mark.parametrize("line", [None, -1, 0])
def test_killed_after_its_last_step_it_is_finished_byte_for_byte(
    text: str, tmp_path: Path, whole: RunFolder, moment: str, line: int | None
) -> None:
    """What lies in the folder after such a kill is that of an unbroken run, less what came later.

    Half of a file that was being written lies beside it, and a line of the log may be damaged.
    """
    folder = tmp_path / "run"
    shutil.copytree(whole.path, folder)
    expected = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    for name in ("result.json", *LATE[moment]):
        (folder / name).unlink()
    (folder / ".model-0123abcd.part.safetensors").write_bytes(b"half")
    if line is not None:
        lines = (folder / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        lines[line] = b"\x00" * (len(lines[line]) - 1) + b"\n"
        (folder / "metrics.jsonl").write_bytes(b"".join(lines))
        lines = expected[folder / "metrics.jsonl"].splitlines(keepends=True)
        expected[folder / "metrics.jsonl"] = b"".join(lines[1:] if line == 0 else lines)
    status, _, err = run_cli(*command(text, folder))
    assert status == 0, err
    found = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert found.keys() == expected.keys()
    for file, content in found.items():
        assert content == expected[file], file.name


def test_a_hang_up_that_is_ignored_stays_ignored(text: str, tmp_path: Path) -> None:
    """As nohup has it: the run goes on to its end."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopOnSignal().installed():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        stop = StopOnSignal()
        with stop.installed():
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.was_asked
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_is_closed_leaves_a_checkpoint(text: str, tmp_path: Path) -> None:
    """The kernel sends SIGHUP, and from then on nothing can be printed."""
    folder = tmp_path / "run"
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
        os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])
        os.execv(sys.executable, [sys.executable, "-m", "rinsc", *command(text, folder)])
    try:
        drained = threading.Thread(target=_drain, args=(terminal, lambda: _steps(folder) >= 3))
        drained.start()
        drained.join(processes.SECONDS)
    finally:
        os.close(terminal)
    _, ended = os.waitpid(child, 0)
    assert 3 <= _steps(folder) < STEPS
    assert os.waitstatus_to_exitcode(ended) == 130
    assert all(is_whole(each) for each in checkpoints(folder))
    assert not list(folder.glob(".checkpoint-*"))


def _drain(terminal: int, until: Callable[[], bool]) -> None:
    while not until():
        if select.select([terminal], [], [], 0.01)[0]:
            os.read(terminal, 1 << 16)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_asked_to_stop_it_writes_a_checkpoint(
    text: str, tmp_path: Path, whole: RunFolder, number: signal.Signals
) -> None:
    folder = tmp_path / "run"
    with processes.started(tmp_path, *command(text, folder)) as running:
        assert running.until(lambda: _steps(folder) >= 5)
        running.send(number)
        assert running.wait() == 130, running.err.read_text()
        said = running.err.read_text()
    step = _steps(folder)
    assert 5 <= step < STEPS
    assert f"stopped after step {step}, with a checkpoint: the same command goes on" in said
    assert "Traceback" not in said
    assert not RunFolder(folder).result.exists()
    finish(text, folder, whole)
    RunFolder(folder).weights.unlink()  # a run without its model is not finished
    finish(text, folder, whole)
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    status, out, err = processes.run(tmp_path, *command(text, folder))
    assert status == 0
    assert "this run is finished" in err
    assert f"{json.loads(RunFolder(folder).result.read_text())['bits_per_byte']:.4f}" in out
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize("share", [0.02, 0.4, 0.9])
def test_a_full_disk_is_one_error_and_the_run_goes_on(
    text: str, tmp_path: Path, whole: RunFolder, share: float
) -> None:
    """Inputs are what cannot be written at first, then the weights, then the optimizer."""
    folder = tmp_path / "run"
    with processes.started(tmp_path, *command(text, folder)) as running:
        assert running.until(lambda: _steps(folder) >= 8)
        running.send(signal.SIGKILL)
        running.wait()
    kept = checkpoints(folder)
    before = {path: path.read_bytes() for path in kept[-1].path.iterdir()}
    limit = int(share * max(len(content) for content in before.values()))
    status, out, err = processes.run(tmp_path, *command(text, folder), file_size=limit)
    assert (status, out) == (1, "")
    assert err.count("error[") == err.count("error[cannot-write]") == 1, err
    assert "hint: " in err
    assert "Traceback" not in err
    assert {path: path.read_bytes() for path in before} == before
    finish(text, folder, whole)
