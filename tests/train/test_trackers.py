"""Trackers are told what the metrics file holds."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rinsc.data.batches import TokenizedCorpus
from rinsc.spec import ModelSpec
from rinsc.syntax import parse
from rinsc.training.config import TrainConfig
from rinsc.training.metrics import read_metrics
from rinsc.training.run import train_module
from rinsc.training.run_folder import RunFolder
from tests.train import processes
from tests.train.runs import fresh

TAGS = {
    "train/loss": "loss_nats",
    "train/grad_norm": "gradient_norm",
    "train/learning_rate": "learning_rate",
    "train/bits_per_byte": "bits_per_byte",
    "train/training_flops": "training_flops",
    "train/tokens_per_second": "tokens_per_second",
    "train/model_flops_utilization": "model_flops_utilization",
}


def test_tensorboard_shows_the_metrics(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    drawn = dataclasses.replace(spec, signature=parse("A^4{skip=0.5}B"))
    train_module(fresh(drawn), drawn, tokens, config, folder, trackers=("tensorboard",))
    events = accumulator.EventAccumulator(str(folder.tensorboard)).Reload()
    metrics = read_metrics(folder.metrics)
    for tag, key in TAGS.items():
        found = {event.step: event.value for event in events.Scalars(tag)}
        expected = {each.step: getattr(each, key) for each in metrics}
        expected = {step: value for step, value in expected.items() if value is not None}
        assert found == pytest.approx(expected, rel=1e-3), tag


def test_trackio_shows_the_metrics(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"On day {day} the river rose by {day % 7}." for day in range(300)))
    run = RunFolder(tmp_path / "run")
    places = {"TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    command = (
        *("train", "(A^3)B", "--layers", "4", "--width", "32", "--heads", "4"),
        *("--vocab-size", "270", "--context", "16", "--data", f"text:{text}"),
        *("--steps", "30", "--batch", "4", "-o", str(run.path), "--track", "trackio"),
    )
    with processes.started(tmp_path / "process", *command, environment=places) as process:
        assert process.wait() == 0, process.err.read_text()
    metrics = read_metrics(run.metrics)
    assert len(metrics) == 3
    for tag in ("train/loss", "train/training_flops"):  # a command each
        expected = [getattr(each, TAGS[tag]) for each in metrics]
        assert _from_trackio(tag, run.path.name, places) == pytest.approx(expected), tag


def _from_trackio(tag: str, run: str, places: dict[str, str]) -> list[float]:
    """The values that trackio's own command line tells of a run."""
    asked = ("--project", "rinsc", "--run", run, "--metric", tag, "--json")
    answer = subprocess.run(
        [str(Path(sys.executable).with_name("trackio")), "get", "metric", *asked],
        env={**os.environ, **places},
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return [each["value"] for each in json.loads(answer.stdout)["values"]]


def test_without_a_tracker_nothing_is_told(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    train_module(fresh(spec), spec, tokens, dataclasses.replace(config, steps=1), folder)
    assert not folder.tensorboard.exists()
