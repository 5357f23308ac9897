"""Documents kept apart in training: against each document run for itself."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from rinsc.backends.torch import CompiledModule
from rinsc.data.batches import TokenizedCorpus, tokenize
from rinsc.data.documents import Corpus, Document, split
from rinsc.data.tokenizer import BytePairTokenizer, train_tokenizer
from rinsc.spec import ModelSpec
from rinsc.training.config import TrainConfig
from rinsc.training.run import train_module
from rinsc.training.run_folder import RunFolder, open_run_folder
from tests.train.plain import plain_rate
from tests.train.runs import differing, fresh, fresh_module, losses


@pytest.fixture(scope="module")
def lines(corpus: Corpus, tokenizer: BytePairTokenizer) -> TokenizedCorpus:
    """Every line of a play as a document."""
    first = corpus.train[0]
    texts = [line for line in first.text.splitlines() if len(line) > 7]
    documents = [type(first)(str(n), text) for n, text in enumerate(texts)]
    return tokenize(split("lines", documents), tokenizer)


def pieces(tokens: TokenizedCorpus, first: int, length: int) -> Iterator[torch.Tensor]:
    """The parts of a window that belong to one document, the token after the window included."""
    ids = torch.from_numpy(tokens.train[first : first + length + 1].astype(np.int64))
    starts = [int(s) - first for s in tokens.train_starts if first < s <= first + length]
    for begin, end in zip([0, *starts], [*starts, length + 1], strict=True):
        yield ids[begin:end]


def documents_apart(
    module: CompiledModule, tokens: TokenizedCorpus, config: TrainConfig
) -> list[float]:
    """Each document through the module alone; what it begins with is nobody's target."""
    named = list(module.named_parameters())
    decayed = [w for _, w in named if w.ndim > 1]
    groups = [{"params": decayed, "weight_decay": config.weight_decay}]
    groups += [{"params": [w for _, w in named if w.ndim == 1], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=config.betas)
    length, found = config.sequence_length, []
    count = (len(tokens.train) - 1) // length
    order = np.random.default_rng([config.seed, 0]).permutation(count)
    for step in range(config.steps):
        nats, targets = torch.zeros(()), 0
        for place in range(step * config.batch_sequences, (step + 1) * config.batch_sequences):
            for ids in pieces(tokens, int(order[place]) * length, length):
                if len(ids) > 1:
                    logits = module(ids[None, :-1])[0]
                    nats = nats + nn.functional.cross_entropy(logits, ids[1:], reduction="sum")
                    targets += len(ids) - 1
        loss = nats / targets
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(module.parameters(), config.clip)
        for group in optimizer.param_groups:
            group["lr"] = plain_rate(config, step)
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("parts", [1, 3])
def test_documents_apart_train_as_each_for_itself(
    spec: ModelSpec, lines: TokenizedCorpus, config: TrainConfig, folder: RunFolder, parts: int
) -> None:
    apart = dataclasses.replace(config, packing="documents", accumulate=parts)
    plain, model = fresh_module(spec), fresh(spec)
    expected = documents_apart(plain, lines, apart)
    train_module(model, spec, lines, apart, folder)
    assert losses(folder) == pytest.approx(expected, rel=1e-5)
    for name, weight in plain.named_parameters():
        torch.testing.assert_close(model.model.get_parameter(name), weight, rtol=1e-3, atol=2e-5)


def test_documents_across_train_another_model(
    spec: ModelSpec, lines: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    runs = {}
    for packing in ("across", "documents"):
        run, model = open_run_folder(folder.path / packing), fresh(spec)
        settings = dataclasses.replace(config, packing=packing)
        train_module(model, spec, lines, settings, run)
        runs[packing] = model, losses(run)
    (across, across_losses), (apart, apart_losses) = runs.values()
    assert across_losses != pytest.approx(apart_losses, rel=1e-3)
    assert len(differing(across, apart)) > 10


def test_a_step_without_a_target_changes_nothing_and_ends_nothing(
    spec: ModelSpec, config: TrainConfig, folder: RunFolder, corpus: Corpus
) -> None:
    """Documents of one token, each beginning with what is nobody's target."""
    texts = [document.text for document in corpus.train]
    tokenizer = train_tokenizer(texts, spec.vocab_size, end_of_text=None)
    letters = [Document(str(n), "abcdefgh"[n % 8]) for n in range(9000)]
    tokens = tokenize(split("letters", letters), tokenizer)
    apart = dataclasses.replace(config, packing="documents", weight_decay=0.0)
    model = fresh(spec)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    train_module(model, spec, tokens, apart, folder)
    assert losses(folder) == [0.0] * config.steps
    assert all(torch.equal(weight, before[name]) for name, weight in model.named_parameters())
