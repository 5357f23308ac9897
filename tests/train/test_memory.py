"""Training that memory cannot hold is refused, and told of where it was found too late."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch

from rinsc.backends.torch import CompiledModule
from rinsc.backends.torch.memory import (
    allocation_errors,
    require_training_memory,
    total_memory,
)
from rinsc.cost import memory, stored_params
from rinsc.errors import LoweringError
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec
from rinsc.train.batches import TokenizedCorpus
from rinsc.train.config import TrainConfig
from rinsc.train.fits import check_fits
from rinsc.train.loop import train
from rinsc.train.run_folder import open_run_folder

CPU = torch.device("cpu")
TOO_MUCH = 1 << 50  # elements: beyond the address space of any machine


def fits(spec: ModelSpec, batch: int, seq: int) -> bool:
    try:
        require_training_memory(build_graph(spec), seq, batch=batch)
    except LoweringError:
        return False
    return True


def limit(patch: pytest.MonkeyPatch, size: int) -> None:
    patch.setattr("rinsc.backends.torch.memory.total_memory", lambda device: size)


def hint(spec: ModelSpec, batch: int, seq: int) -> list[int]:
    """The numbers in what would make it fit."""
    with pytest.raises(LoweringError) as caught:
        require_training_memory(build_graph(spec), seq, batch=batch)
    assert caught.value.code == "does-not-fit"
    return [int(number) for number in re.findall(r"\d+", str(caught.value.hint))]


@pytest.mark.parametrize(("batch", "seq"), [(1, 29), (3, 23), (8, 5)])
def test_the_limit_is_the_sum_of_the_report(
    spec: ModelSpec, batch: int, seq: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = memory(build_graph(spec), seq, batch=batch)
    needed = report.weight_bytes + report.gradient_bytes + report.optimizer_bytes
    needed += report.activation_bytes
    limit(monkeypatch, needed)
    assert fits(spec, batch, seq)
    limit(monkeypatch, needed - 1)
    assert not fits(spec, batch, seq)


@pytest.mark.parametrize("room", [300_000, 600_000, 900_000])
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
        check_fits(spec, tokens, config, "cuda")
    assert asked == ["cuda"]


def test_the_machine_has_some_memory() -> None:
    assert 1 << 28 < total_memory(CPU) < 1 << 50


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
    model: CompiledModule,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("rinsc.train.loop.token_loss", lambda *_, **__: torch.empty(TOO_MUCH))
    with pytest.raises(LoweringError, match="memory is used up"):
        train(model, spec, tokens, config, open_run_folder(tmp_path / "run"))
