"""Trackers are told what the metrics file holds."""

from __future__ import annotations

import dataclasses

import pytest

from rinsc.data.batches import TokenizedCorpus
from rinsc.spec import ModelSpec
from rinsc.syntax import parse
from rinsc.train.config import TrainConfig
from rinsc.train.metrics import read_metrics
from rinsc.train.run import train
from rinsc.train.run_folder import RunFolder
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
    train(fresh(drawn), drawn, tokens, config, folder, trackers=("tensorboard",))
    events = accumulator.EventAccumulator(str(folder.tensorboard)).Reload()
    metrics = read_metrics(folder.metrics)
    for tag, key in TAGS.items():
        found = {event.step: event.value for event in events.Scalars(tag)}
        expected = {each.step: getattr(each, key) for each in metrics}
        expected = {step: value for step, value in expected.items() if value is not None}
        assert found == pytest.approx(expected, rel=1e-3), tag


def test_without_a_tracker_nothing_is_told(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    train(fresh(spec), spec, tokens, dataclasses.replace(config, steps=1), folder)
    assert not folder.tensorboard.exists()
