"""Resuming: to the last bit as if the run had never stopped, or not at all."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.backends.torch.weights import load_weights, save_weights
from rinsc.errors import CheckpointError
from rinsc.files import atomic_path
from rinsc.spec import ModelSpec
from rinsc.train import loop
from rinsc.train.batches import TokenizedCorpus
from rinsc.train.checkpoint import Position, load_checkpoint, save_checkpoint
from rinsc.train.config import TrainConfig
from rinsc.train.loop import TrainResult, train
from rinsc.train.metrics import Metrics, read_metrics
from rinsc.train.optimizer import build_optimizer
from rinsc.train.run_folder import RunFolder, open_run_folder

IDENTITY = {"model": "AB", "configuration": "steps = 3"}


class StoppedError(Exception):
    """Stands for the end of the process."""


class StopAt:
    """An observer that ends the process, as far as the trainer can tell, after some step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def started(self, config: TrainConfig, step: int) -> None: ...

    def stepped(self, metrics: Metrics) -> None:
        if metrics.step == self.step:
            raise StoppedError

    def finished(self, result: TrainResult) -> None: ...


Make = Callable[[], CompiledModule]


@pytest.fixture
def make(spec: ModelSpec) -> Make:
    def build() -> CompiledModule:
        torch.manual_seed(5)
        return to_torch(spec)

    return build


def _weights_differ(left: nn.Module, right: nn.Module) -> bool:
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return any(not torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("stop", [1, 3, 4, 7])
def test_resuming_is_exact(
    make: Make,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path: Path,
    stop: int,
) -> None:
    whole = make()
    whole_folder = open_run_folder(tmp_path / "whole")
    expected = train(whole, spec, tokens, config, whole_folder)

    folder = open_run_folder(tmp_path / "broken")
    with pytest.raises(StoppedError):
        train(make(), spec, tokens, config, folder, observer=StopAt(stop))
    resumed = make()
    with torch.no_grad():
        for parameter in resumed.parameters():  # nothing of the fresh model may survive
            parameter.mul_(0.5 if folder.checkpoint.exists() else 1.0)
    again = open_run_folder(tmp_path / "broken", resume=True)
    result = train(resumed, spec, tokens, config, again, resume=True)

    assert not _weights_differ(whole, resumed)
    assert result.bits_per_byte == expected.bits_per_byte
    assert result.loss_nats == expected.loss_nats
    written = to_torch(spec)
    load_weights(written, again.weights)
    assert not _weights_differ(whole, written)
    timeless = [
        [dataclasses.replace(m, seconds=0, tokens_per_second=0) for m in read_metrics(f.metrics)]
        for f in (whole_folder, again)
    ]
    assert timeless[0] == timeless[1]


def test_resuming_without_the_optimizer_would_be_seen(
    make: Make,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = make()
    train(whole, spec, tokens, config, open_run_folder(tmp_path / "whole"))
    folder = open_run_folder(tmp_path / "broken")
    with pytest.raises(StoppedError):
        train(make(), spec, tokens, config, folder, observer=StopAt(4))
    monkeypatch.setattr("rinsc.train.checkpoint._load_optimizer", lambda *_: None)
    resumed = make()
    train(resumed, spec, tokens, config, folder, resume=True)
    assert _weights_differ(whole, resumed)


@pytest.fixture
def saved(make: Make, config: TrainConfig, tmp_path: Path) -> tuple[Path, CompiledModule]:
    """A checkpoint after one step, and the model as it was then."""
    path = tmp_path / "checkpoint.safetensors"
    model = make()
    optimizer = _step(model, config)
    save_checkpoint(path, model, optimizer, Position(1, 2.5, 5.5), IDENTITY)
    return path, model


def _step(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    optimizer = build_optimizer(model, config)
    model(torch.arange(20)[None]).square().mean().backward()
    optimizer.step()
    return optimizer


def test_everything_comes_back(
    saved: tuple[Path, CompiledModule], make: Make, config: TrainConfig
) -> None:
    path, before = saved
    model = make()
    optimizer = build_optimizer(model, config)
    assert _weights_differ(model, before)
    assert load_checkpoint(path, model, optimizer, IDENTITY) == Position(1, 2.5, 5.5)
    assert not _weights_differ(model, before)
    moments = optimizer.state_dict()["state"]
    assert len(moments) == len(list(model.parameters()))
    assert {str(m["step"].item()) for m in moments.values()} == {"1.0"}


def test_the_random_state_comes_back(make: Make, config: TrainConfig, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.safetensors"
    model = make()
    optimizer = _step(model, config)
    save_checkpoint(path, model, optimizer, Position(1, 0.0, 1.0), IDENTITY)
    expected = torch.rand(3)
    torch.manual_seed(999)
    load_checkpoint(path, model, optimizer, IDENTITY)
    assert torch.equal(torch.rand(3), expected)


def _refused(
    path: Path, make: Make, config: TrainConfig, identity: dict[str, str] = IDENTITY
) -> str:
    """The code of the refusal; the model must be untouched."""
    model = make()
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, model, build_optimizer(model, config), identity)
    assert not _weights_differ(model, make())
    assert str(path) in str(caught.value)
    return caught.value.code


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_checkpoint_cut_short_is_refused(
    saved: tuple[Path, CompiledModule], make: Make, config: TrainConfig, share: float
) -> None:
    path, _ = saved
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert _refused(path, make, config) == "damaged-checkpoint"


@pytest.mark.parametrize("place", [0.2, 0.5, 0.99])
def test_a_single_altered_bit_is_refused(
    saved: tuple[Path, CompiledModule], make: Make, config: TrainConfig, place: float
) -> None:
    path, _ = saved
    content = bytearray(path.read_bytes())
    content[int(len(content) * place)] ^= 1
    path.write_bytes(content)
    assert _refused(path, make, config) == "damaged-checkpoint"


def test_an_altered_position_is_refused(
    saved: tuple[Path, CompiledModule], make: Make, config: TrainConfig
) -> None:
    path, _ = saved
    old, new = (json.dumps(json.dumps({"step": n}))[2:-2].encode() for n in (1, 2))
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    assert _refused(path, make, config) == "damaged-checkpoint"


def test_a_missing_checkpoint_is_refused(make: Make, config: TrainConfig, tmp_path: Path) -> None:
    assert _refused(tmp_path / "none.safetensors", make, config) == "no-checkpoint"


def test_plain_weights_are_no_checkpoint(make: Make, config: TrainConfig, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_weights(make(), path)
    assert _refused(path, make, config) == "not-a-checkpoint"


def test_a_checkpoint_of_another_run_is_refused(
    saved: tuple[Path, CompiledModule], make: Make, config: TrainConfig
) -> None:
    path, _ = saved
    other = {**IDENTITY, "configuration": "steps = 4"}
    assert _refused(path, make, config, other) == "foreign-checkpoint"


def test_a_checkpoint_of_another_shape_is_refused(
    saved: tuple[Path, CompiledModule], config: TrainConfig
) -> None:
    path, _ = saved
    model = nn.Linear(2, 3)
    with pytest.raises(CheckpointError, match="of another model"):
        load_checkpoint(path, model, build_optimizer(model, config), IDENTITY)


def test_a_crash_while_writing_leaves_the_previous_checkpoint(
    make: Make,
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = make()
    train(whole, spec, tokens, config, open_run_folder(tmp_path / "whole"))
    folder = open_run_folder(tmp_path / "broken")

    def torn(
        path: Path, model: nn.Module, optimizer: object, position: Position, _: object
    ) -> None:
        if position.step < 4:
            return save_checkpoint(path, model, optimizer, position, _)  # type: ignore[arg-type]
        with atomic_path(path) as part:
            part.write_bytes(b"half")
            raise StoppedError

    monkeypatch.setattr(loop, "save_checkpoint", torn)
    with pytest.raises(StoppedError):
        train(make(), spec, tokens, config, folder)
    monkeypatch.undo()
    assert sorted(path.name for path in folder.path.iterdir() if "part" in path.name) == []
    resumed = make()
    train(resumed, spec, tokens, config, RunFolder(folder.path), resume=True)
    assert not _weights_differ(whole, resumed)
