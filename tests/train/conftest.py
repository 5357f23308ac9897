"""A real corpus, tokenizer and model, each as small as the tests can use."""

from __future__ import annotations

import pytest
import torch

from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.spec import ModelSpec, model_spec
from rinsc.train.batches import TokenizedCorpus, tokenize
from rinsc.train.config import TrainConfig
from rinsc.train.data import Corpus, load_corpus, split
from rinsc.train.tokenizer import BytePairTokenizer, train_tokenizer

VOCAB = 307


@pytest.fixture(scope="session")
def plays() -> Corpus:
    return load_corpus("plays")


@pytest.fixture(scope="session")
def corpus(plays: Corpus) -> Corpus:
    """The beginnings of some plays."""
    documents = plays.train[:11]
    return split("some plays", [type(d)(d.name, d.text[:6007]) for d in documents])


@pytest.fixture(scope="session")
def tokenizer(corpus: Corpus) -> BytePairTokenizer:
    return train_tokenizer([document.text for document in corpus.train], VOCAB)


@pytest.fixture(scope="session")
def tokens(corpus: Corpus, tokenizer: BytePairTokenizer) -> TokenizedCorpus:
    return tokenize(corpus, tokenizer)


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
