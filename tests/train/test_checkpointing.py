"""Activations made again in the backward pass: the same training in less memory."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from rinsc.backends.hf import causal_lm
from rinsc.cost import memory
from rinsc.cost.memory import Checkpointing
from rinsc.data.batches import TokenizedCorpus
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse
from rinsc.training.config import TrainConfig
from rinsc.training.run import train_module
from rinsc.training.run_folder import RunFolder, open_run_folder
from tests.train.runs import differing, fresh, losses

DRAWN = "(A^5{skip=0.5, adapter=scale})B^2{sample=uniform(1, 3), inject=gate, init=noise}"


@pytest.mark.parametrize("how", ["visit", "round"])
@pytest.mark.parametrize("text", ["(A^3)B", DRAWN, "((A^2)B)^2"])
def test_the_same_training_with_activations_made_again(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    text: str,
    how: Checkpointing,
) -> None:
    spec = dataclasses.replace(spec, signature=parse(text))
    runs = []
    for way in ("none", how):
        run, model = open_run_folder(folder.path / way), fresh(spec)
        settings = dataclasses.replace(config, checkpointing=way)
        result = train_module(model, spec, tokens, settings, run)
        runs.append((model, losses(run), result.training_flops))
    (plain, plain_losses, plain_flops), (model, found, flops) = runs
    assert found == pytest.approx(plain_losses, rel=1e-6)
    assert differing(model, plain) == []
    assert flops == plain_flops  # what is made again is not counted


def kept_bytes(spec: ModelSpec, batch: int, seq: int, how: Checkpointing) -> int:
    """Every storage that autograd keeps after a forward pass, weights and tables aside."""
    model = causal_lm(spec).train()
    model.set_checkpointing(how)
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    held: dict[int, tuple[torch.Tensor, int]] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = (tensor, storage.nbytes())  # kept, so that no other is there
        return tensor

    ids = torch.zeros(batch, seq, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(ids, labels=ids, shift_labels=ids)
    return sum(size for tensor, size in held.values() if tensor.is_floating_point())


@pytest.mark.parametrize(
    ("text", "more", "how"),
    [
        ("(A^6)B", "(A^7)B", "round"),
        ("(A^6)B", "(A^7)B", "visit"),
        ("((A^2)B)^3C", "((A^2)B)^4C", "round"),
        ("((A^2)B)^3C", "(A((A^2)B)^3)C", "visit"),
    ],
)
def test_the_estimate_is_about_what_autograd_keeps(
    text: str, more: str, how: Checkpointing
) -> None:
    """What is kept after the forward pass, and one visit or round more, made again at a time."""
    spec, longer = (model_spec(each, preset="tiny", layers=6) for each in (text, more))
    unit = kept_bytes(longer, 4, 64, "none") - kept_bytes(spec, 4, 64, "none")
    expected = kept_bytes(spec, 4, 64, how) + unit
    found = memory(build_graph(spec), 64, batch=4, checkpointing=how).activation_bytes
    assert found == pytest.approx(expected, rel=0.15)
    plain = memory(build_graph(spec), 64, batch=4).activation_bytes
    assert found < 0.75 * plain
    assert plain == pytest.approx(kept_bytes(spec, 4, 64, "none"), rel=0.15)
