"""A small copy of each entry trains, and gives the same logits in ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.extras import zoo_dir
from rinsc.graph.law import draw_rounds
from rinsc.layers import layer_kind
from rinsc.spec import ModelSpec
from rinsc.spec.small import small_copy
from rinsc.variants.zoo import zoo_entry

# Two towers are trained and exported by tests of their own.
NAMES = sorted({path.stem for path in zoo_dir().glob("*.toml")} - {"siglip-b16"})
STEPS = 6
TOLERANCE = 1e-4  # fp32 in two runtimes


def one_tower(name: str) -> ModelSpec:
    spec = zoo_entry(name).spec
    assert isinstance(spec, ModelSpec)
    return spec


def task(spec: ModelSpec) -> tuple[torch.Tensor, torch.Tensor]:
    """One fixed batch: the next token for causal kinds, the masked tokens for the others."""
    torch.manual_seed(1)
    ids = torch.randint(1, spec.vocab_size, (4, 12))
    if layer_kind(spec.kind).causal:
        return ids[:, :-1], ids[:, 1:]
    masked = ids.clone()
    masked[:, ::3] = 0
    return masked, ids


def losses(
    model: CompiledModule, given: torch.Tensor, wanted: torch.Tensor, *, rate: float = 3e-3
) -> list[float]:
    """Of a plain training loop on one batch, with rounds drawn where the entry draws them."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    found = []
    model.train()
    for step in range(STEPS):
        rounds = draw_rounds(model.graph, seed=0, step=step)
        logits = model(given, rounds or None)
        loss = cross_entropy(logits.flatten(0, 1), wanted.flatten())
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        found.append(loss.item())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_exports(name: str) -> None:
    spec = small_copy(one_tower(name))
    torch.manual_seed(0)
    model = to_torch(spec)
    given, wanted = task(spec)
    assert has_learned(losses(model, given, wanted))
    assert gap(model, given) < TOLERANCE


def has_learned(run: list[float]) -> bool:
    return bool(np.isfinite(run).all()) and run[-1] < run[0] - 0.05


def gap(
    model: CompiledModule, given: torch.Tensor, exported: CompiledModule | None = None
) -> float:
    """The largest difference of PyTorch's and ONNX Runtime's logits at the rounds written."""
    model.eval()
    with torch.no_grad():
        expected = model(given).numpy()
    found = Session(to_onnx(exported or model)).logits(given.numpy())
    return float(np.abs(found - expected).max())


def test_a_model_that_learns_nothing_and_one_that_is_another_are_seen() -> None:
    spec = small_copy(one_tower("huginn"))
    given, wanted = task(spec)
    model, other = to_torch(spec), to_torch(spec)
    assert not has_learned(losses(model, given, wanted, rate=0.0))
    assert gap(model, given, exported=other) > TOLERANCE
