"""Training runs of the tests: fresh models, observers, and what two runs are compared by."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from rinsc.backends.hf import RinscForCausalLM, causal_lm
from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.data.batches import TokenizedCorpus
from rinsc.spec import ModelSpec
from rinsc.training.config import TrainConfig
from rinsc.training.metrics import Metrics, read_metrics
from rinsc.training.result import TrainResult
from rinsc.training.run import train_module
from rinsc.training.run_folder import RunFolder, open_run_folder

TIMES = ("seconds", "tokens_per_second", "model_flops_utilization")


class EndedError(Exception):
    """Stands for the end of the process."""


class Recorder:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.first_step = -1
        self.metrics: list[Metrics] = []
        self.result: TrainResult | None = None

    def started(self, config: TrainConfig, step: int) -> None:
        self.first_step = step

    def stepped(self, metrics: Metrics) -> None:
        self.metrics.append(metrics)

    def finished(self, result: TrainResult) -> None:
        self.result = result


class EndAt(Recorder):
    """Ends the process, as far as the trainer can tell, after some step and before it is saved."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def stepped(self, metrics: Metrics) -> None:
        if metrics.step == self.step:
            raise EndedError


def fresh(spec: ModelSpec) -> RinscForCausalLM:
    """A model to train, with the weights of `fresh_module`."""
    torch.manual_seed(5)
    return causal_lm(spec)


def fresh_module(spec: ModelSpec) -> CompiledModule:
    torch.manual_seed(5)
    return to_torch(spec)


def trained(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: Path,
    **more: Any,
) -> tuple[RinscForCausalLM, RunFolder]:
    """A fresh model, trained into a new folder."""
    model, run = fresh(spec), open_run_folder(folder)
    train_module(model, spec, tokens, config, run, **more)
    return model, run


def losses(folder: RunFolder) -> list[float]:
    return [metrics.loss_nats for metrics in read_metrics(folder.metrics)]


def timeless(folder: RunFolder) -> list[Metrics]:
    """The metrics without what a clock says."""
    zeros: dict[str, Any] = dict.fromkeys(TIMES, 0.0)
    return [dataclasses.replace(each, **zeros) for each in read_metrics(folder.metrics)]


def differing(left: nn.Module, right: nn.Module) -> list[str]:
    """Names of the weights that are not the same to the last bit, of modules and models alike."""
    first, second = _own(left), _own(right)
    assert first.keys() == second.keys()
    return [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]


def _own(module: nn.Module) -> dict[str, torch.Tensor]:
    inner = module.model if isinstance(module, RinscForCausalLM) else module
    return dict(inner.named_parameters())
