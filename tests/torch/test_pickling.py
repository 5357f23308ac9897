"""Modules are pickled, copied and saved whole, and loaded by other processes."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import rinsc
from rinsc.backends.hf import causal_lm
from rinsc.backends.torch import emit_source
from rinsc.backends.torch.decoding import cached_module
from rinsc.graph import build_graph, unroll
from tests.onnx.models import small_spec

SPEC = small_spec("P(A^3{skip=0.5, adapter=linear}B)^2{inject=add, init=noise}")
IDS = torch.arange(10).view(2, 5)
ROOT = Path(__file__).parents[2]

# Run where nothing of rinsc has been imported yet.
LOAD = """
import sys, torch
ids = torch.arange(10).view(2, 5)
for name in ("plain", "unrolled", "cached", "hf"):
    model = torch.load(f"{name}.pt", weights_only=False)
    result = model(ids)
    result = result.logits if name == "hf" else result[0] if name == "cached" else result
    torch.testing.assert_close(result, torch.load(f"{name}_logits.pt"))
    model.train()(ids).sum() if name == "plain" else None
plain = torch.load("plain.pt", weights_only=False)
print(plain.spec.text, plain.draws.step, type(plain.A).__name__, plain.source.count("class Model"))
print(torch.load("block.pt", weights_only=False)(torch.zeros(1, 5, 24), *plain_sides).shape)
"""


def test_another_process_loads_what_was_saved(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = rinsc.to_torch(SPEC).train()
    plain(IDS)
    models: dict[str, Any] = {"plain": plain, "unrolled": rinsc.to_torch(unroll(plain.graph, 2))}
    models |= {"cached": cached_module(plain), "hf": causal_lm(SPEC)}
    for name, model in models.items():
        logits = model.eval()(IDS)
        logits = getattr(logits, "logits", logits[0] if name == "cached" else logits)
        torch.save(logits.detach(), tmp_path / f"{name}_logits.pt")
        torch.save(model, tmp_path / f"{name}.pt")
    torch.save(plain.A, tmp_path / "block.pt")
    sides = "plain_sides = (plain.cos[:5], plain.sin[:5])\nprint(torch.load"
    script = LOAD.replace("print(torch.load", sides)
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{SPEC.text} 1 LlamaBlock 1", "torch.Size([1, 5, 24])"]


@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_pickle_is_the_model(protocol: int) -> None:
    model: Any = rinsc.to_torch(SPEC).eval()
    hf: Any = causal_lm(SPEC)
    hf.eval()
    for same in (pickle.loads(pickle.dumps(model, protocol)), copy.deepcopy(model)):
        assert torch.equal(same(IDS), model(IDS))
        assert same.graph == model.graph
        with torch.no_grad():
            same.A[0].query.weight.add_(1)
        assert not torch.equal(same(IDS), model(IDS))
    assert type(copy.deepcopy(model)) is type(model)
    again = pickle.loads(pickle.dumps(hf, protocol))
    assert torch.equal(again(IDS).logits, hf(IDS).logits)
    assert type(again.model) is type(hf.model)
    assert again.config.to_dict() == hf.config.to_dict()


def test_two_models_of_one_pickle_share_what_they_shared() -> None:
    model = rinsc.to_torch(SPEC)
    one, other, cached = pickle.loads(pickle.dumps((model, model, cached_module(model))))
    assert one is other
    assert one.A[0].query.weight is cached.A[0].query.weight


def test_a_module_that_was_changed_is_pickled_as_it_is() -> None:
    model: Any = rinsc.to_torch(SPEC).bfloat16().requires_grad_(False)
    model.register_buffer("more", torch.ones(2))
    model.A[0].mlp_norm = torch.nn.Identity()
    again: Any = pickle.loads(pickle.dumps(model))
    assert again.embedding.weight.dtype == torch.bfloat16
    assert not any(parameter.requires_grad for parameter in again.parameters())
    assert torch.equal(again.more, torch.ones(2))
    assert isinstance(again.A[0].mlp_norm, torch.nn.Identity)


def test_an_emitted_file_is_pickled_by_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(emit_source(build_graph(SPEC)))
    save = "from model import Model; import torch, copy; m = copy.deepcopy(Model()).eval()\n"
    save += "torch.save((m, m(torch.zeros(1, 3).long())), 'm.pt')"
    load = "import torch; m, logits = torch.load('m.pt', weights_only=False)\n"
    load += "assert torch.equal(m(torch.zeros(1, 3).long()), logits)"
    for script in (save, load):
        command = [sys.executable, "-c", script]
        subprocess.run(command, cwd=tmp_path, env={}, check=True, capture_output=True)
