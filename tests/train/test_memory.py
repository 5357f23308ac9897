"""Training that memory cannot hold is refused, and told of where it was found too late."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from rinsc.backends.torch.memory import (
    TrainingStep,
    allocation_errors,
    require_training_memory,
    total_memory,
)
from rinsc.cost import memory, stored_params
from rinsc.cost.memory import Checkpointing
from rinsc.data.batches import TokenizedCorpus
from rinsc.errors import LoweringError
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse
from rinsc.training.config import TrainConfig
from rinsc.training.devices import Devices, check_devices, check_fits
from rinsc.training.run import train_module
from rinsc.training.run_folder import RunFolder
from tests.train.runs import fresh

CPU = torch.device("cpu")
TOO_MUCH = 1 << 50  # elements: beyond the address space of any machine


def fits(spec: ModelSpec, batch: int, seq: int) -> bool:
    try:
        require_training_memory(TrainingStep(build_graph(spec), seq, batch))
    except LoweringError:
        return False
    return True


def limit(patch: pytest.MonkeyPatch, size: int) -> None:
    """So much memory for what is live at once."""
    module = "rinsc.backends.torch.memory."
    patch.setattr(f"{module}total_memory", lambda device: size)
    patch.setattr(f"{module}PROCESS_BYTES", 0)
    patch.setattr(f"{module}ALLOCATOR_SHARES", {"cpu": 0.0, "cuda": 0.0})


def activations(spec: ModelSpec, batch: int, rounds: int | None = None) -> int:
    return TrainingStep(build_graph(spec), 23, batch, rounds=rounds).activation_bytes


def hint(spec: ModelSpec, batch: int, seq: int) -> list[int]:
    """The numbers in what would make it fit."""
    with pytest.raises(LoweringError) as caught:
        require_training_memory(TrainingStep(build_graph(spec), seq, batch))
    assert caught.value.code == "does-not-fit"
    return [int(number) for number in re.findall(r"\d+", str(caught.value.hint).split(";")[0])]


@pytest.mark.parametrize(("batch", "seq"), [(1, 29), (3, 23), (8, 5)])
def test_the_limit_is_the_sum_of_the_report(
    spec: ModelSpec, batch: int, seq: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = memory(build_graph(spec), seq, batch=batch)
    needed = report.weight_bytes + report.gradient_bytes + report.optimizer_bytes
    needed += report.activation_bytes + 8 * batch * seq * spec.vocab_size  # of the loss
    limit(monkeypatch, needed)
    assert fits(spec, batch, seq)
    limit(monkeypatch, needed - 1)
    assert not fits(spec, batch, seq)


@pytest.mark.parametrize("room", [400_000, 600_000, 900_000])
def test_the_hint_says_the_most_that_fits(
    spec: ModelSpec, room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 16 * stored_params(build_graph(spec)) + room)
    batch, seq = hint(spec, 1000, 29)
    assert seq == 29
    assert fits(spec, batch, 29)
    assert not fits(spec, batch + 1, 29)


def test_the_hint_shortens_the_sequence_where_not_one_fits(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 16 * stored_params(build_graph(spec)) + 50_000)
    batch, seq = hint(spec, 4, 29)
    assert batch == 1 <= seq < 29
    assert fits(spec, 1, seq)
    assert not fits(spec, 1, seq + 1)


def test_weights_gradients_and_moments_alone_may_be_too_much(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = stored_params(build_graph(spec))
    limit(monkeypatch, 16 * params)
    assert hint(spec, 1, 1) == [params]


def test_what_does_not_fit_is_found_with_the_other_mistakes(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    check_fits(spec, tokens, config)
    wide = dataclasses.replace(spec, width=7 << 16)
    with pytest.raises(LoweringError, match="gradients and optimizer state"):
        check_fits(wide, tokens, config)
    asked: list[str] = []

    def small(device: torch.device) -> int:
        asked.append(device.type)
        return 1

    monkeypatch.setattr("rinsc.backends.torch.memory.total_memory", small)
    with pytest.raises(LoweringError):
        check_fits(spec, tokens, config, Devices(torch.device("cuda")))
    assert asked == ["cuda"]


@pytest.mark.parametrize(("device", "share"), [("cpu", 0.3), ("cuda", 0.1)])
def test_the_process_and_its_allocator_have_room(
    spec: ModelSpec, device: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = TrainingStep(build_graph(spec), 23, 4)
    needed = step.held_bytes + step.activation_bytes + (900 << 20)
    needed += round(share * step.activation_bytes)
    for room, fits in ((0, True), (-1, False)):
        size = needed + room
        monkeypatch.setattr(
            "rinsc.backends.torch.memory.total_memory", lambda device, size=size: size
        )
        if fits:
            require_training_memory(step, device)
            continue
        with pytest.raises(LoweringError, match=r"up to 0\.9 GiB for the process"):
            require_training_memory(step, device)


RESIDENT = """
import re, sys
from pathlib import Path
from rinsc.cli import main
status = main(sys.argv[1:])
# Not ru_maxrss, which begins at the peak of the process that started this one.
peak = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(status, int(peak) * 1024, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("signature", "kind", "checkpointing"),
    [("A^3B", "gpt", "none"), ("A^3B", "llama", "none"), ("A^6B", "llama", "visit")],
)
def test_a_run_stays_below_what_is_asked_for(
    signature: str, kind: str, checkpointing: Checkpointing, tmp_path: Path
) -> None:
    """The process as the system sees it, at its peak."""
    text = tmp_path / "text.txt"
    pages = Path(__file__).parents[2].glob("docs/*.md")
    text.write_text("\n".join(page.read_text(encoding="utf-8") for page in sorted(pages)))
    dimensions: dict[str, Any] = {
        "layers": 4,
        "width": 128,
        "heads": 4,
        "kv_heads": 4,
        "vocab_size": 600,
    }
    spec = model_spec(signature, preset="tiny", kind=kind, context=256, **dimensions)
    given = [f"--{name.replace('_', '-')}={value}" for name, value in dimensions.items()]
    command = ["train", signature, f"--kind={kind}", "--context=256", *given, "--device=cpu"]
    command += [f"--checkpointing={checkpointing}", "--steps=2", "--batch=16", "--seq=256"]
    command += [f"--data=text:{text}", f"--output={tmp_path / 'run'}"]
    done = subprocess.run(
        [sys.executable, "-c", RESIDENT, *command], capture_output=True, text=True, check=True
    )
    status, peak = map(int, done.stderr.split()[-2:])
    assert status == 0, done.stderr
    step = TrainingStep(build_graph(spec), 256, 16, checkpointing=checkpointing)
    assert peak <= step.needed_bytes


def test_the_machine_has_some_memory() -> None:
    assert 1 << 28 < total_memory(CPU) < 1 << 50


def test_a_container_may_have_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "memory.max"
    monkeypatch.setattr("rinsc.backends.torch.memory.CONTAINER_LIMITS", (tmp_path / "none", file))
    machine = total_memory(CPU)
    for told, expected in (("max\n", machine), ("268435456\n", 1 << 28), (f"{1 << 62}", machine)):
        file.write_text(told)
        assert total_memory(CPU) == expected


def test_the_error_of_an_allocator_is_one_of_ours() -> None:
    with pytest.raises(LoweringError) as caught, allocation_errors():
        torch.empty(TOO_MUCH)
    assert caught.value.code == "does-not-fit"
    assert str(4 * TOO_MUCH) in caught.value.message
    with pytest.raises(LoweringError, match=r"20\.00 GiB more"), allocation_errors():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has")
    with pytest.raises(LoweringError, match="memory is used up"), allocation_errors():
        bytearray(1 << 62)


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), allocation_errors():
        torch.ones(2, 3) @ torch.ones(2, 3)


def test_memory_that_runs_out_in_training_is_told(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = fresh(spec)
    monkeypatch.setattr(model, "loss_function", lambda **_: torch.empty(TOO_MUCH))
    with pytest.raises(LoweringError, match="memory is used up"):
        train_module(model, spec, tokens, config, folder)


@pytest.mark.parametrize("held", ["none", "visit"])
def test_checkpointing_is_advised_where_it_would_fit_and_then_fits(
    spec: ModelSpec, config: TrainConfig, monkeypatch: pytest.MonkeyPatch, held: Checkpointing
) -> None:
    """The advice is followed to the letter, for each amount of memory."""
    deep = dataclasses.replace(spec, signature=parse("(A^8)B"))
    asked = dataclasses.replace(config, batch_sequences=64, checkpointing=held)
    kept = 16 * stored_params(build_graph(deep))
    most = activations(deep, 64)
    advised = set()
    for share in (0.05, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.8):
        limit(monkeypatch, kept + int(share * most))
        try:
            check_devices(deep, asked)
        except LoweringError as error:
            advice = str(error.hint)
        else:
            continue
        by = re.search(r"checkpointing by (\w+) would fit", advice)
        if by is not None:
            advised.add(by[1])
            check_devices(deep, dataclasses.replace(asked, checkpointing=by[1]))  # type: ignore[arg-type]
        fewer = re.search(r"a batch of (\d+) at (\d+) tokens", advice)
        assert fewer is not None
        batch, seq = int(fewer[1]), int(fewer[2])
        check_devices(deep, dataclasses.replace(asked, batch_sequences=batch, sequence_length=seq))
        more = dataclasses.replace(asked, batch_sequences=batch + 1, sequence_length=seq)
        with pytest.raises(LoweringError):
            check_devices(deep, more)
        parts = re.search(r"in (\d+) parts", advice)
        assert parts is not None
        check_devices(deep, dataclasses.replace(asked, accumulate=int(parts[1])))
    assert advised == ({"round", "visit"} if held == "none" else set())


def over(processes: int, *, shard: bool = False) -> Devices:
    return Devices(CPU, processes, shard=shard)


def test_shards_and_parts_of_a_batch_need_less(
    spec: ModelSpec, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = dataclasses.replace(config, batch_sequences=24)
    four = TrainingStep(build_graph(spec), 23, 8, processes=4, shard=True)
    limit(monkeypatch, four.held_bytes + four.activation_bytes)
    parts = dataclasses.replace(whole, accumulate=3)
    check_devices(spec, parts, over(4, shard=True))
    for settings, devices in (
        (parts, over(2, shard=True)),
        (whole, over(4, shard=True)),
        (parts, over(4)),
    ):
        with pytest.raises(LoweringError):
            check_devices(spec, settings, devices)


def test_so_many_devices_are_advised_as_are_needed(
    spec: ModelSpec, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = build_graph(dataclasses.replace(spec, signature=parse("ABCD"), layers=4))
    six = TrainingStep(graph, 23, 6, processes=6, shard=True)
    limit(monkeypatch, six.held_bytes + six.activation_bytes)
    with pytest.raises(LoweringError) as caught:
        require_training_memory(TrainingStep(graph, 23, 1))
    assert "shard it over 6 devices or more" in str(caught.value.hint)
    five = dataclasses.replace(six, processes=5, batch=5)
    assert five.needed_bytes > six.needed_bytes
    limit(monkeypatch, six.activation_bytes)
    with pytest.raises(LoweringError) as caught:
        require_training_memory(TrainingStep(graph, 23, 1))
    assert "shard it" not in str(caught.value.hint)


@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("shard", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_advice_counts_parts_and_processes(
    spec: ModelSpec,
    config: TrainConfig,
    monkeypatch: pytest.MonkeyPatch,
    processes: int,
    shard: bool,
    accumulate: int,
) -> None:
    """A part of three sequences fits, one of four does not: followed, the advice fits just so."""
    graph, devices = build_graph(spec), over(processes, shard=shard)
    held = TrainingStep(graph, 23, 1, processes=processes, shard=shard).held_bytes
    limit(monkeypatch, held + activations(spec, 3))
    fitting = 3 * accumulate * processes
    whole = dataclasses.replace(config, batch_sequences=48, accumulate=accumulate)
    with pytest.raises(LoweringError) as caught:
        check_devices(spec, whole, devices)
    advice = str(caught.value.hint)
    assert f"a batch of {fitting} at 23 tokens a sequence would fit" in advice
    check_devices(spec, dataclasses.replace(whole, batch_sequences=fitting), devices)
    parts = re.search(r"in (\d+) parts", advice)
    assert parts is not None
    assert int(parts[1]) == 16 // processes
    check_devices(spec, dataclasses.replace(whole, accumulate=int(parts[1])), devices)


def test_growing_rounds_are_held_at_their_most(
    spec: ModelSpec, config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = build_graph(spec)
    held = 16 * stored_params(graph)
    limit(monkeypatch, held + activations(spec, 3, 5))
    growing = dataclasses.replace(config, rounds_schedule=((0.0, 1), (0.5, 5)))
    check_devices(spec, growing)
    with pytest.raises(LoweringError):
        check_devices(spec, dataclasses.replace(config, rounds_schedule=((0.0, 6), (0.5, 1))))
