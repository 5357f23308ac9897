"""A real corpus, tokenizer and model, each as small as the tests can use."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.spec import ModelSpec, model_spec
from rinsc.training.config import TrainConfig
from rinsc.training.run_folder import RunFolder, open_run_folder
from tests.data.fixtures import VOCAB, corpus, plays, tokenizer, tokens

__all__ = ["config", "corpus", "folder", "model", "plays", "spec", "tokenizer", "tokens"]


@pytest.fixture(scope="session")
def spec() -> ModelSpec:
    return model_spec(
        "(A^3)B",
        layers=2,
        width=28,
        heads=7,
        kv_heads=7,
        mlp_width=37,
        vocab_size=VOCAB,
        context=29,
    )


@pytest.fixture
def model(spec: ModelSpec) -> CompiledModule:
    torch.manual_seed(5)
    return to_torch(spec)


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return open_run_folder(tmp_path / "run")


@pytest.fixture(scope="session")
def config() -> TrainConfig:
    return TrainConfig(
        steps=7,
        batch_sequences=3,
        sequence_length=23,
        learning_rate=3e-3,
        warmup_steps=2,
        log_every=1,
        eval_every=3,
        eval_windows=5,
        checkpoint_every=2,
    )
