"""A run that begins with the steps of a shorter one ends as one that was never broken."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
import torch

from rinsc.errors import CheckpointError, OutputError
from rinsc.progress import SilentProgress
from rinsc.spec import ModelSpec, model_spec
from rinsc.training.checkpoint import checkpoints
from rinsc.training.config import TrainConfig
from rinsc.training.devices import Devices
from rinsc.training.result import Trained
from rinsc.training.resuming import begin_from_trunk
from rinsc.training.run_folder import RunFolder
from rinsc.training.schedules import learning_rate_share, stable_steps
from rinsc.training.start import planned_run
from tests.train.runs import timeless

SPEC = model_spec(
    "A^3{skip=0.4}B",
    layers=2,
    width=16,
    heads=2,
    mlp_width=23,
    vocab_size=270,
    context=16,
)
SHORT = TrainConfig(
    steps=20,
    batch_sequences=2,
    sequence_length=16,
    warmup_steps=3,
    schedule="wsd",
    log_every=1,
    eval_every=6,
    checkpoint_every=7,
    keep=1,
)
LONG = replace(SHORT, steps=40, checkpoint_every=9)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("text") / "rain.txt"
    lines = [f"On day {day} the rain fell, and the river rose by {day % 7}." for day in range(300)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"text:{path}"


def trained(text: str, config: TrainConfig, folder: Path, spec: ModelSpec = SPEC) -> Trained:
    devices = Devices(torch.device("cpu"))
    run = planned_run(spec, config, text, folder, devices=devices)
    return run.run(progress=SilentProgress())


@pytest.fixture(scope="module")
def trunk(text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The short run: it ends with its last checkpoint and that of where the rate begins to fall."""
    folder = tmp_path_factory.mktemp("trunk") / "run"
    trained(text, SHORT, folder)
    assert [item.step for item in checkpoints(folder)] == [stable_steps(SHORT), SHORT.steps]
    return folder


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_chain_of_branches_ends_as_unbroken_runs(
    optimizer: Literal["adamw", "muon"], text: str, tmp_path: Path
) -> None:
    """Each budget from the one before, and the same weights, metrics and result as alone."""
    last = None
    for steps in (20, 40, 80):
        config = replace(SHORT, steps=steps, optimizer=optimizer)
        alone, branch = tmp_path / f"alone-{steps}", tmp_path / f"branch-{steps}"
        whole = trained(text, config, alone)
        if last is not None:
            taken = begin_from_trunk(last, SPEC, config, branch)
            assert taken == 0.8 * steps / 2 - 1
            assert [item.step for item in checkpoints(branch)] == [taken]
        result = trained(text, config, branch).result
        assert result.quality == whole.result.quality
        assert result.training_flops == whole.result.training_flops
        for name in ("model.safetensors", "tokenizer.json", "data.json", "train.toml"):
            assert (branch / name).read_bytes() == (alone / name).read_bytes()
        assert timeless(RunFolder(alone)) == timeless(RunFolder(branch))
        last = branch


def test_the_rates_of_both_are_one_until_the_branch(text: str) -> None:
    """The oracle is the schedule itself: the next step is at the peak, the one after is not."""
    for steps in (20, 21, 40, 333):
        config = replace(SHORT, steps=steps)
        stable = stable_steps(config)
        assert stable is not None
        shares = [learning_rate_share(config, step) for step in range(steps)]
        assert shares[stable] == 1 > shares[stable + 1]
    assert stable_steps(replace(SHORT, schedule="cosine")) is None
    assert stable_steps(replace(SHORT, warmup_steps=20)) is None
    assert stable_steps(replace(SHORT, rounds_schedule=((0.0, 1), (0.5, 2)))) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"learning_rate": 1e-3}, "its 'learning_rate' is 0.002, not 0.001"),
        ({"schedule": "cosine"}, "its 'schedule' is 'wsd', not 'cosine'"),
        ({"seed": 1}, "its 'seed' is 0, not 1"),
        ({"warmup_steps": 4}, "its 'warmup_steps' is 3, not 4"),
        ({"steps": 12}, "no whole checkpoint of its first 9 steps"),
    ],
)
def test_what_is_no_trunk_is_one_error(
    changes: dict[str, object], reason: str, trunk: Path, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=reason) as caught:
        begin_from_trunk(trunk, SPEC, replace(LONG, **changes), tmp_path / "run")  # type: ignore[arg-type]
    assert caught.value.code == "no-trunk"
    assert not (tmp_path / "run").exists()


def test_another_model_folder_or_damage_is_one_error(trunk: Path, tmp_path: Path) -> None:
    other = replace(SPEC, context=18)
    for folder, spec in ((trunk, other), (tmp_path / "nothing", SPEC)):
        with pytest.raises(CheckpointError, match="cannot be a trunk"):
            begin_from_trunk(folder, spec, LONG, tmp_path / "run")
    begin_from_trunk(trunk, SPEC, LONG, tmp_path / "run")
    with pytest.raises(OutputError, match="begun here already"):
        begin_from_trunk(trunk, SPEC, LONG, tmp_path / "run")
    weights = tmp_path / "run" / "checkpoint-15" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(CheckpointError, match="no whole checkpoint"):
        begin_from_trunk(tmp_path / "run", SPEC, replace(LONG, steps=80), tmp_path / "longer")


def test_a_branch_that_is_cut_short_is_a_run_of_its_own(
    trunk: Path, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the checkpoint it begins at step 0, to the same weights."""

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("rinsc.training.resuming._copy_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            begin_from_trunk(trunk, SPEC, LONG, tmp_path / "cut")
    assert RunFolder(tmp_path / "cut").is_begun
    begin_from_trunk(trunk, SPEC, LONG, tmp_path / "branch")
    runs = [trained(text, LONG, tmp_path / name) for name in ("cut", "branch")]
    one, other = ((run.path / "model.safetensors").read_bytes() for run in runs)
    assert one == other
