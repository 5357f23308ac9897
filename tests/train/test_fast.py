"""``fast`` takes what is measured to be the fastest, and a run that was begun stays with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rinsc.errors import RinscError
from rinsc.formats import TrainingPrecision
from rinsc.spec import model_spec
from rinsc.training import devices as fast
from rinsc.training.config import TrainConfig, config_to_toml
from rinsc.training.devices import Devices
from rinsc.training.run_folder import RunFolder

SPEC = model_spec("A^2B", layers=2, width=16, heads=2, mlp_width=32, vocab_size=64, context=16)
CONFIG = TrainConfig(steps=20, batch_sequences=4, sequence_length=16)
CPU = Devices(torch.device("cpu"))


def settings_of(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    config: TrainConfig = CONFIG,
    seconds: dict[TrainingPrecision, float],
    compiler: bool = True,
    anew: bool = False,
) -> tuple[TrainConfig, str]:
    """What ``fast`` comes to on a processor with bf16, at these seconds a step."""

    def compiling(device: torch.device) -> None:
        if not compiler:
            raise RinscError("cannot-compile", "no compiler", hint="install one")

    monkeypatch.setattr(fast, "fast_precision", lambda device: "bf16")
    monkeypatch.setattr(fast, "step_seconds", lambda *_: seconds)
    monkeypatch.setattr(fast, "require_compiler", compiling)
    return fast.fast_settings(SPEC, config, CPU, RunFolder(folder), anew=anew)


@pytest.mark.parametrize(
    ("fp32", "bf16", "steps", "expected"),
    [
        (0.01, 0.03, 20, ("fp32", False)),
        (0.03, 0.01, 20, ("bf16", False)),
        (0.01, 0.03, 100_000, ("fp32", True)),
        (0.03, 0.01, 100_000, ("bf16", True)),
    ],
)
def test_the_quicker_precision_and_compiling_where_it_pays(
    fp32: float,
    bf16: float,
    steps: int,
    expected: tuple[str, bool],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(CONFIG, steps=steps)
    seconds: dict[TrainingPrecision, float] = {"fp32": fp32, "bf16": bf16}
    chosen, note = settings_of(tmp_path, monkeypatch, config=config, seconds=seconds)
    assert (chosen.precision, chosen.compile) == expected
    assert f"fp32 {1e3 * fp32:.0f} ms, bf16 {1e3 * bf16:.0f} ms" in note
    without, _ = settings_of(tmp_path, monkeypatch, config=config, seconds=seconds, compiler=False)
    assert (without.precision, without.compile) == (expected[0], False)


def test_a_run_that_was_begun_stays_with_its_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is measured now: other settings would be another run."""
    begun = replace(CONFIG, precision="bf16", compile=True)  # as 0.5.0 chose for any size
    RunFolder(tmp_path).config.write_text(config_to_toml(begun))
    quick_fp32: dict[TrainingPrecision, float] = {"fp32": 0.01, "bf16": 0.03}
    chosen, note = settings_of(tmp_path, monkeypatch, seconds=quick_fp32)
    assert chosen == begun
    assert "as the run was begun" in note
    anew, _ = settings_of(tmp_path, monkeypatch, seconds=quick_fp32, anew=True)
    assert anew == CONFIG


@pytest.mark.parametrize("kind", ["llama", "vit"])
def test_steps_are_measured_in_every_precision(kind: str) -> None:
    spec = SPEC if kind == "llama" else model_spec("A^2{skip=0.5}B", preset="tiny", kind="vit")
    seconds = fast.step_seconds(spec, CONFIG, CPU, ("fp32", "bf16"))
    assert seconds.keys() == {"fp32", "bf16"}
    assert all(0 < spent < 60 for spent in seconds.values())
