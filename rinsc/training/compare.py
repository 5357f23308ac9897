"""A variant and its baseline, trained at the same training FLOPs on the same text."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from rinsc.backends.hf import causal_lm
from rinsc.backends.torch import CompiledModule, load_weights, to_torch
from rinsc.backends.torch.memory import allocation_errors
from rinsc.cost import ComputeMatch
from rinsc.data.batches import TokenizedCorpus
from rinsc.data.tokenizer import BytePairTokenizer
from rinsc.spec import ModelSpec
from rinsc.training.budget import matched
from rinsc.training.config import TrainConfig
from rinsc.training.fits import check_fits
from rinsc.training.metrics import Observer
from rinsc.training.result import TrainResult
from rinsc.training.run import train_module
from rinsc.training.run_folder import RunFolder, check_run_folder, open_run_folder
from rinsc.training.schedules import Depths

EVALUATIONS = 12  # points on a loss curve
WARMUP_SHARE = 0.05

ProgressFactory = Callable[[str], AbstractContextManager[Observer]]


@dataclass(frozen=True)
class Contender:
    """One side of the comparison: how it was trained and what came of it."""

    spec: ModelSpec
    folder: RunFolder
    model: CompiledModule
    result: TrainResult


def train_pair(
    baseline: ModelSpec,
    variant: ModelSpec,
    plan: ComputeMatch,
    corpus: TokenizedCorpus,
    tokenizer: BytePairTokenizer,
    config: TrainConfig,
    folder: Path,
    progress: ProgressFactory,
) -> tuple[Contender, Contender]:
    """Train both for the steps of the plan, each in a folder of its own below ``folder``.

    All other settings are those of ``config``, the same seed and learning rate included. Old runs
    in these folders are removed, once it is known that both new ones can start.
    """
    first = _for_steps(config, plan.baseline_steps)
    steps = plan.variant_steps
    if any(Depths(spec, config).drawn for spec in (baseline, variant)):
        steps = matched(first, variant, baseline).steps  # the plan has expectations
    plans = (("baseline", baseline, first), ("variant", variant, _for_steps(config, steps)))
    for name, spec, settings in plans:
        check_fits(spec, corpus, settings)
        check_run_folder(folder / name, overwrite=True)
    sides = []
    for name, spec, settings in plans:
        run = open_run_folder(folder / name, overwrite=True)
        tokenizer.save(run.tokenizer)
        torch.manual_seed(config.seed)
        with allocation_errors():
            trained = causal_lm(spec)
        with progress(spec.text) as observer:
            result = train_module(trained, spec, corpus, settings, run, observer=observer)
        model = to_torch(spec)
        load_weights(model, run.weights)
        sides.append(Contender(spec, run, model, result))
    return sides[0], sides[1]


def _for_steps(config: TrainConfig, steps: int) -> TrainConfig:
    """The settings at another length: warm-up and evaluations keep their share of it."""
    return dataclasses.replace(
        config,
        steps=steps,
        warmup_steps=max(1, round(steps * WARMUP_SHARE)),
        eval_every=max(1, steps // EVALUATIONS),
        checkpoint_every=max(1, steps // 4),
    )
