"""``rinsc train`` over two gloo processes: copies (DDP) and shards (FSDP2)."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from safetensors.torch import load_file

from rinsc.evaluation.evaluate import evaluate
from rinsc.training.checkpoint import checkpoints, is_whole
from rinsc.training.metrics import read_metrics
from rinsc.training.run_folder import RunFolder
from tests.distributed.ranks import largest_gap
from tests.train import processes
from tests.train.processes import Command

ROOT = Path(__file__).resolve().parents[2]
STEPS = 14
MODEL = (
    *("P(A^3{skip=0.4})B", "--layers", "3", "--width", "24", "--heads", "4", "--kv-heads", "2"),
    *("--mlp-width", "37", "--vocab-size", "270", "--context", "16"),
)
SETTINGS = (
    *("--steps", str(STEPS), "--batch", "4", "--device", "cpu", "--checkpoint-every", "2"),
    *("--eval-every", "3"),
)
WAYS: dict[str, tuple[str, ...]] = {
    "copies": (),
    "pinned": ("--shard",),
    "resharded": ("--shard", "--recursed", "reshard"),
}
LOSS_LIMIT = 1e-4

# Says so where Python takes a process down, object by object.
LAST_WORDS = """
import os, sys

class Last:
    def __del__(self, write=os.write):
        write(2, b"taken down by Python")

sys.last = Last()
"""


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("corpus") / "rain.txt"
    lines = [f"On day {day} the rain fell, and the river rose by {day % 7}." for day in range(300)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"text:{path}"


def command(text: str, folder: Path, *more: str) -> tuple[str, ...]:
    return ("train", *MODEL, "--data", text, "-o", str(folder), *SETTINGS, *more)


@contextlib.contextmanager
def two_started(folder: Path, *args: str, second: tuple[str, ...] = ()) -> Any:
    """The command on two ranks that meet at a free port; the ``second`` may have one of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with contextlib.ExitStack() as stack:
        ranks = []
        for rank in range(2):
            facts = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
            environment = {name: str(fact) for name, fact in facts.items()}
            environment["MASTER_ADDR"] = "127.0.0.1"
            place = folder / f"rank-{rank}"
            own = second if rank == 1 and second else args
            made = processes.started(place, *own, environment=environment)
            ranks.append(stack.enter_context(made))
        yield ranks


def on_two(folder: Path, *args: str) -> list[Command]:
    """Both ranks, ended well."""
    with two_started(folder, *args) as ranks:
        statuses = [rank.wait() for rank in ranks]
        assert statuses == [0, 0], "\n".join(rank.err.read_text() for rank in ranks)
        return list(ranks)


@pytest.fixture(scope="module")
def alone(text: str, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same training in one process."""
    folder = tmp_path_factory.mktemp("alone")
    status, _, err = processes.run(folder, *command(text, folder / "run"))
    assert status == 0, err
    return RunFolder(folder / "run")


def require_same(run: RunFolder, alone: RunFolder) -> None:
    """Losses, FLOPs and weights, up to the order in which numbers are added."""
    found, expected = read_metrics(run.metrics), read_metrics(alone.metrics)
    assert [each.step for each in found] == [each.step for each in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.loss_nats == pytest.approx(theirs.loss_nats, abs=LOSS_LIMIT)
        assert ours.bits_per_byte == pytest.approx(theirs.bits_per_byte, abs=LOSS_LIMIT)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-3)
        assert (ours.tokens, ours.training_flops) == (theirs.tokens, theirs.training_flops)
        assert ours.rounds == theirs.rounds
    results = [json.loads(each.result.read_text()) for each in (run, alone)]
    assert results[0]["bits_per_byte"] == pytest.approx(results[1]["bits_per_byte"], abs=LOSS_LIMIT)
    assert largest_gap(load_file(run.weights), load_file(alone.weights)) < 1e-2


@pytest.mark.parametrize("way", WAYS)
def test_two_processes_train_what_one_does(
    text: str, tmp_path: Path, alone: RunFolder, way: str
) -> None:
    run = RunFolder(tmp_path / "run")
    first, second = on_two(tmp_path, *command(text, run.path, *WAYS[way]))
    require_same(run, alone)
    assert "over 2 processes" in first.err.read_text()
    assert "bits per byte" in first.out.read_text()
    assert second.out.read_text() == second.err.read_text() == ""  # the first one alone reports
    assert all(each.is_sharded == (way != "copies") for each in checkpoints(run.path))


@pytest.mark.parametrize("way", ["copies", "pinned"])
def test_both_are_killed_and_go_on_as_two_or_as_one(
    text: str, tmp_path: Path, alone: RunFolder, way: str
) -> None:
    run = RunFolder(tmp_path / "run")
    args = command(text, run.path)
    for goal in (2, 6):
        with two_started(tmp_path, *args, *WAYS[way]) as ranks:
            held = ranks[0].until(lambda goal=goal: _steps(run.path) >= goal)
            assert held, ranks[0].err.read_text()
            for rank in ranks:
                rank.send(signal.SIGKILL)
            assert [rank.wait() for rank in ranks] == [-signal.SIGKILL] * 2
        assert all(is_whole(each) for each in checkpoints(run.path))
    assert 6 <= _steps(run.path) < STEPS
    status, _, err = processes.run(tmp_path, *args)
    assert status == 0, err
    require_same(run, alone)


def stop_alone(folder: Path, *args: str) -> None:
    """Half of the run in ``folder / "run"``, in one process."""
    with processes.started(folder, *args) as running:
        assert running.until(lambda: _steps(folder / "run") >= 4)
        running.send(signal.SIGTERM)
        assert running.wait() == 130


def _steps(folder: Path) -> int:
    found = checkpoints(folder)
    return found[-1].step if found else 0


@pytest.mark.parametrize("way", WAYS)
def test_stopped_as_one_it_goes_on_as_two(
    text: str, tmp_path: Path, alone: RunFolder, way: str
) -> None:
    run = RunFolder(tmp_path / "run")
    args = command(text, run.path)
    stop_alone(tmp_path, *args)
    on_two(tmp_path, *args, *WAYS[way])
    require_same(run, alone)


# What a step may leave without a gradient, and what is drawn by the place in the batch.
STARTS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "learned, as copies": ("(A^4{init=learned,inject=gate,grad=2,sample=uniform(1,4)})B", (), ()),
    "learned, in shards": (
        "(A^2{init=learned,inject=gate,grad=2})B",
        ("--rounds", "4"),
        ("--shard",),
    ),
    "noise, in parts": ("P(A^3{init=noise,inject=concat})B", (), ("--accumulate", "2")),
}


@pytest.mark.parametrize("case", STARTS)
def test_starts_of_loops_are_those_of_one_process(text: str, tmp_path: Path, case: str) -> None:
    signature, shared, settings = STARTS[case]
    run, alone = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "alone")
    whole, several = (
        [signature if word == MODEL[0] else word for word in command(text, each.path, *shared)]
        for each in (alone, run)
    )
    assert processes.run(tmp_path, *whole)[0] == 0
    with two_started(tmp_path, *several, *settings) as ranks:
        assert ranks[0].until(lambda: _steps(run.path) >= 4), ranks[0].err.read_text()
        ranks[0].send(signal.SIGTERM)
        assert [rank.wait() for rank in ranks] == [130, 130]
    on_two(tmp_path, *several, *settings)
    require_same(run, alone)


@pytest.mark.parametrize("way", ["copies", "pinned"])
def test_two_processes_classify_as_one_does(tmp_path: Path, way: str) -> None:
    pytest.importorskip("sklearn")
    run, alone = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "alone")
    shared = (
        *("train", "A^3{skip=0.4}B", "--objective", "classify", "--data", "digits"),
        *("--layers", "2", "--width", "24", "--heads", "4", "--mlp-width", "34", "--steps", "6"),
        *("--batch", "16", "--accumulate", "2", "--eval-every", "3", "--device", "cpu"),
        *("--checkpoint-every", "3"),
    )
    assert processes.run(tmp_path, *shared, "-o", str(alone.path))[0] == 0
    on_two(tmp_path, *shared, *WAYS[way], "-o", str(run.path))
    ours, theirs = read_metrics(run.metrics), read_metrics(alone.metrics)
    assert [each.step for each in ours] == [3, 6]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.loss_nats == pytest.approx(other.loss_nats, abs=LOSS_LIMIT)
        assert mine.quality == pytest.approx(other.quality, abs=0.01)
        assert (mine.rounds, mine.training_flops) == (other.rounds, other.training_flops)
    assert largest_gap(load_file(run.weights), load_file(alone.weights)) < 1e-2
    read = evaluate(run.path / "checkpoint-3", rounds=3).rows
    expected = evaluate(alone.path / "checkpoint-3", rounds=3).rows
    for row, other_row in zip(read, expected, strict=True):
        assert row.quality.figures == pytest.approx(other_row.quality.figures, abs=LOSS_LIMIT)


def test_the_other_one_does_not_wait_for_one_that_died(text: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with two_started(tmp_path, *command(text, run)) as ranks:
        assert ranks[0].until(lambda: _steps(run) >= 2), ranks[0].err.read_text()
        ranks[1].send(signal.SIGKILL)
        assert ranks[0].wait() != 0
    assert all(is_whole(each) for each in checkpoints(run))


@pytest.mark.parametrize(
    ("mistake", "code"),
    [(("--accumulate", "4"), "uneven-batch"), (("--tokenizer", "none.json"), "cannot-read")],
    ids=["of all", "that the first one finds"],
)
def test_a_mistake_ends_both(
    text: str, tmp_path: Path, mistake: tuple[str, str], code: str
) -> None:
    run = tmp_path / "run"
    with two_started(tmp_path, *command(text, run), *mistake) as ranks:
        statuses = [rank.wait() for rank in ranks]
    said = [rank.err.read_text() for rank in ranks]
    assert 0 not in statuses, said
    assert f"error[{code}]" in said[0]
    assert "Traceback" not in "".join(said)
    assert not run.exists()


def test_a_mistake_of_the_second_one_ends_both(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    run, elsewhere = tmp_path / "run", tmp_path / "file" / "run"
    with two_started(tmp_path, *command(text, run), second=command(text, elsewhere)) as ranks:
        assert [rank.wait() for rank in ranks] == [1, 1]
    said = [rank.err.read_text() for rank in ranks]
    assert "error[process-lost]" in said[0]
    assert "error[cannot-write]" in said[1]
    assert "Traceback" not in "".join(said)
    assert not run.exists()


@pytest.mark.parametrize("stopped", ["never", "as one", "as two"])
def test_shards_follow_muon_as_one_does(text: str, tmp_path: Path, stopped: str) -> None:
    settings = ("--optimizer", "muon")
    run, alone = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "alone")
    assert processes.run(tmp_path, *command(text, alone.path), *settings)[0] == 0
    args = (*command(text, run.path), *settings)
    if stopped == "as one":
        stop_alone(tmp_path, *args)
    if stopped == "as two":
        with two_started(tmp_path, *args, "--shard") as ranks:
            assert ranks[0].until(lambda: _steps(run.path) >= 4), ranks[0].err.read_text()
            ranks[0].send(signal.SIGTERM)
            assert [rank.wait() for rank in ranks] == [130, 130]
    on_two(tmp_path, *args, "--shard")
    for ours, theirs in zip(read_metrics(run.metrics), read_metrics(alone.metrics), strict=True):
        assert ours.loss_nats == pytest.approx(theirs.loss_nats, abs=LOSS_LIMIT)
        assert ours.gradient_norm == pytest.approx(theirs.gradient_norm, rel=1e-3)
    # Muon orthogonalises in bf16: what is added in another order differs by more than in fp32.
    assert largest_gap(load_file(run.weights), load_file(alone.weights)) < 3e-2


def test_torchrun_starts_them(text: str, tmp_path: Path, alone: RunFolder) -> None:
    run = RunFolder(tmp_path / "run")
    (tmp_path / "sitecustomize.py").write_text(LAST_WORDS)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"),
            *("-m", "rinsc", *command(text, run.path, "--shard")),
        ],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("taken down by Python") == 1  # torchrun itself, but neither of the two
    require_same(run, alone)


TOWERS = """
signature = "image: A^2{skip=0.5}B, text: AC"
layers = 2
width = 16
heads = 2
mlp_width = 24

[towers.image]
kind = "siglip_image"
image_size = 8
patch_size = 4

[towers.text]
kind = "siglip_text"
vocab_size = 300
context = 6
"""


def test_two_processes_compare_the_pairs_that_one_does(tmp_path: Path) -> None:
    """Captions are equal within a share of the batch, and across the shares."""
    model, rows = tmp_path / "towers.toml", []
    model.write_text(TOWERS)
    for index in range(40):
        Image.new("RGB", (8, 8), (60 * (index % 4), index, 90)).save(tmp_path / f"{index}.png")
        rows.append({"image": f"{index}.png", "caption": f"colour number {index % 4}"})
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = ("--data", f"pairs:{tmp_path / 'pairs.jsonl'}", "--steps", "6")
    settings = ("--batch", "8", "--device", "cpu", "--eval-every", "1", "--lr", "0.003")
    runs = [RunFolder(tmp_path / name) for name in ("alone", "both")]
    args = [("train", str(model), *data, *settings, "-o", str(run.path)) for run in runs]
    status, _, err = processes.run(tmp_path / "one", *args[0])
    assert status == 0, err
    on_two(tmp_path, *args[1])
    alone, both = (read_metrics(run.metrics) for run in runs)
    for one, other in zip(alone, both, strict=True):
        assert other.loss_nats == pytest.approx(one.loss_nats, rel=1e-5)
        assert other.gradient_norm == pytest.approx(one.gradient_norm, rel=1e-3)
        assert (other.training_flops, other.rounds) == (one.training_flops, one.rounds)
    assert alone[-1].loss_nats < alone[0].loss_nats
    # A bias of keys changes nothing, and moves with the noise of its gradient.
    weights = [load_file(run.weights) for run in runs]
    moved = [{n: x for n, x in own.items() if not n.endswith("key.bias")} for own in weights]
    assert largest_gap(*moved) < 1e-2
