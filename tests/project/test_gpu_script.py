"""The script for GPUs runs what rinsc emits today, and needs PyTorch alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from rinsc.cost import training_flops
from rinsc.spec import model_spec
from tests.bench.gpu import emitted_300m
from tests.bench.gpu.emit import PLACE, emitted
from tests.bench.gpu.train_300m import Measured, missed_bars

ROOT = Path(__file__).resolve().parents[2]

# Everything but the standard library, PyTorch and what PyTorch itself needs is hidden.
RUN = """
import sys
hidden = ("rinsc", "lark", "cyclopts", "transformers", "numpy", "rich")
for name in hidden:
    sys.modules[name] = None
from tests.bench.gpu import emitted_300m, train_300m
emitted_300m.DIMENSIONS |= {{"width": 64, "mlp_width": 96, "layers": 1}}
train_300m.emitted_300m.Model = lambda: train_300m.HandWritten(**emitted_300m.DIMENSIONS)
train_300m.nn.Module.compile = lambda self: None
train_300m.emitted_300m.BLOCKS = ["a", "b"]
sys.exit(train_300m.main(["--device", "cpu", "--batch", "1", "--seq", "8", "--steps", "6",
                          "--json", {place!r}]))
"""


def test_the_emitted_file_is_what_rinsc_emits() -> None:
    assert PLACE.read_text(encoding="utf-8") == emitted()


def test_its_flops_are_those_of_the_cost_model() -> None:
    spec = model_spec("(A^3)B", preset="300m")
    for rounds in (1, 3, 5):
        expected = 2 * training_flops(spec, spec.context, rounds=rounds)
        assert emitted_300m.training_flops(rounds, 2, spec.context) == expected


def test_the_emitted_module_is_the_preset() -> None:
    with torch.device("meta"):
        model = emitted_300m.Model()
        logits = model(torch.zeros(1, 8, dtype=torch.long), rounds=2)
    assert logits.shape == (1, 8, emitted_300m.DIMENSIONS["vocab"])


def test_the_script_needs_pytorch_alone(tmp_path: Path) -> None:
    """On a CPU and with a small model in the place of both, whose figures mean nothing."""
    place = tmp_path / "figures.json"
    command = [sys.executable, "-c", RUN.format(place=str(place))]
    environment = {**os.environ, "TORCH_DEVICE_BACKEND_AUTOLOAD": "0"}  # rinsc is not there
    done = subprocess.run(command, cwd=ROOT, env=environment, timeout=120)
    facts = json.loads(place.read_text(encoding="utf-8"))
    assert facts["rows"][0]["name"] == "rinsc, compiled by block"
    assert all(row["median_ms"] > 0 and row["tokens_per_second"] > 0 for row in facts["rows"])
    assert done.returncode == bool(facts["missed"])


@pytest.mark.parametrize(
    ("changed", "missed"),
    [
        ({}, []),
        ({"mfu": 0.44}, ["MFU"]),
        ({"median_ms": 101.0}, ["hand-written"]),
        ({"mfu": 0.6}, ["rounds vary"]),
    ],
)
def test_the_bars(changed: dict[str, Any], missed: list[str]) -> None:
    fitting = Measured("x", median_ms=100.0, p10_ms=99.0, tokens_per_second=1.0, mfu=0.5)
    found = missed_bars([replace(fitting, **changed), fitting, replace(fitting, mfu=0.49)])
    assert [word for word, bar in zip(missed, found, strict=True) if word in bar] == missed
