"""AdamW and Muon: which weights each is for, and that they step as PyTorch's own."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import nn

from rinsc.backends.torch import to_torch
from rinsc.data.batches import TokenizedCorpus, cut_windows
from rinsc.graph import build_graph
from rinsc.layers import weights
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse
from rinsc.training.config import TrainConfig
from rinsc.training.optimizer import build_optimizer, each_optimizer, learning_rate_scales
from rinsc.training.run import scale_residuals, train_module
from rinsc.training.run_folder import RunFolder
from rinsc.training.schedules import learning_rate
from tests.data.whole_batches import TrainingBatches
from tests.train.runs import differing, fresh, fresh_module

MATRICES = ("query", "key", "value", "output", "gate", "up", "down")


def test_muon_steps_the_matrices_of_blocks_and_adamw_the_rest(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    """Both of PyTorch, over weights that are told apart by their names here."""
    config = dataclasses.replace(config, optimizer="muon", weight_decay=0.2)
    plain, model = fresh_module(spec), fresh(spec)
    named = dict(plain.named_parameters())
    matrices = [w for n, w in named.items() if n[0] in "AB" and n.split(".")[-2] in MATRICES]
    assert len(matrices) == 2 * len(MATRICES)
    norms = [w for n, w in named.items() if "norm" in n]
    muon = torch.optim.Muon(matrices, lr=1.0, weight_decay=0.2, adjust_lr_fn="match_rms_adamw")
    tables = [named["embedding.weight"], named["head.weight"]]
    groups = [{"params": tables, "weight_decay": 0.2}]
    groups += [{"params": norms, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, betas=config.betas, fused=True)
    assert len(matrices) + len(norms) + len(tables) == len(named)
    batches = TrainingBatches(cut_windows(tokens.train, 23), 3, config.seed)
    for step in range(config.steps):
        ids = torch.from_numpy(batches.batch(step))
        logits = plain(ids[:, :-1]).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, ids[:, 1:].flatten())
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        optimizers: tuple[Any, ...] = (muon, adamw)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config, step)
            optimizer.step()
            optimizer.zero_grad()
    train_module(model, spec, tokens, config, folder)
    for name, weight in named.items():
        torch.testing.assert_close(model.model.get_parameter(name), weight, rtol=1e-4, atol=1e-5)
    other = dataclasses.replace(config, optimizer="adamw")
    by_adamw = fresh(spec)
    train_module(by_adamw, spec, tokens, other, RunFolder(folder.path))
    assert len(differing(by_adamw, model)) == len(named)


def test_a_block_learns_at_the_power_of_its_visits(spec: ModelSpec, config: TrainConfig) -> None:
    nested = dataclasses.replace(spec, signature=parse("((A^2)B)^3 C"), layers=3)
    graph = build_graph(nested)
    assert learning_rate_scales(graph, 0.5) == {"A": 6**-0.5, "B": 3**-0.5, "C": 1.0}
    module = to_torch(nested)
    rates = dataclasses.replace(config, learning_rate_visits_power=0.5, optimizer="muon")
    found: dict[int, float] = {}
    for optimizer in each_optimizer(build_optimizer(module, graph, rates)):
        for group in optimizer.param_groups:
            found |= {id(weight): group["lr"] for weight in group["params"]}
    scales = {"A": 6**-0.5, "B": 3**-0.5}
    for name, weight in module.named_parameters():
        expected = config.learning_rate * scales.get(name[0], 1.0)
        assert found[id(weight)] == pytest.approx(expected), name


def test_the_first_step_moves_a_block_by_its_rate(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    """AdamW's first step is the learning rate times the sign of the gradient."""
    one = dataclasses.replace(
        config, steps=1, warmup_steps=0, weight_decay=0.0, learning_rate_visits_power=1.0
    )
    before, model = fresh(spec), fresh(spec)
    train_module(model, spec, tokens, one, folder)
    for name, share in (("A", 1 / 3), ("B", 1.0)):
        weight = f"model.{name}.0.up.weight"
        moved = (model.get_parameter(weight) - before.get_parameter(weight)).abs()
        assert moved.median().item() == pytest.approx(3e-3 * share, rel=1e-2)


def test_norms_and_biases_do_not_decay() -> None:
    spec = model_spec(
        "AB",
        kind="gpt",
        layers=2,
        width=24,
        heads=2,
        kv_heads=2,
        mlp_width=31,
        vocab_size=300,
        context=8,
    )
    module = to_torch(spec)
    optimizer = build_optimizer(module, build_graph(spec), TrainConfig(weight_decay=0.3))
    decay = {id(w): g["weight_decay"] for g in optimizer.param_groups for w in g["params"]}
    for name, parameter in module.named_parameters():
        plain = name.endswith("bias") or "norm" in name
        assert decay[id(parameter)] == (0.0 if plain else 0.3), name


def test_vectors_of_repeats_do_not_decay(spec: ModelSpec, config: TrainConfig) -> None:
    text = (
        "((A^3{adapter=lora(2)})^2{adapter=scale}A)^2{adapter=gate, inject=gate, init=learned}"
        "B^3{adapter=embed, inject=concat} B^2{adapter=linear}"
    )
    rich = dataclasses.replace(spec, signature=parse(text))
    module = to_torch(rich)
    optimizer = build_optimizer(module, build_graph(rich), config)
    decay = {id(w): g["weight_decay"] for g in optimizer.param_groups for w in g["params"]}
    named = dict(module.named_parameters())
    assert len(decay) == len(named)
    own = {name: weight for name, weight in named.items() if "loop" in name}
    decayed = {name for name, weight in own.items() if decay[id(weight)]}
    assert sorted({name.split(".")[-2] for name in decayed}) == [
        "adapter",
        "adapter_down",
        "adapter_up",
        "inject",
    ]
    assert all(own[name].ndim == 3 or "inject" in name for name in decayed)
    assert sorted({name.split(".")[-2] for name in own.keys() - decayed}) == [
        "adapter",
        "inject",
        "start",
    ]
    assert all(own[name].ndim < 3 for name in own.keys() - decayed)


def test_muon_never_takes_what_belongs_to_a_repeat(spec: ModelSpec, config: TrainConfig) -> None:
    rich = dataclasses.replace(
        spec, signature=parse("A^3{adapter=lora(2), inject=concat}B"), tied_embedding=False
    )
    module = to_torch(rich)
    settings = dataclasses.replace(config, optimizer="muon")
    muon, adamw = each_optimizer(build_optimizer(module, build_graph(rich), settings))
    names = {id(weight): name for name, weight in module.named_parameters()}
    taken, left = (
        {names[id(w)] for group in each.param_groups for w in group["params"]}
        for each in (muon, adamw)
    )
    assert {name.split(".")[0] for name in taken} == {"A", "B"}
    assert taken | left == set(names.values())
    assert {name.split(".")[0] for name in left} >= {"embedding", "head", "loop_A"}


@pytest.mark.parametrize(("start", "layers"), [("executed", 20), ("stored", 4)])
def test_residual_weights_start_as_deep_as_told(start: str, layers: int) -> None:
    """Their deviation is that of the other matrices over the root of the writes: two a layer."""
    spec = model_spec(
        "A^9B",
        layers=4,
        width=96,
        heads=4,
        kv_heads=4,
        mlp_width=96,
        vocab_size=31,
        context=8,
    )
    torch.manual_seed(2)
    module, graph = to_torch(spec), build_graph(spec)
    if start == "stored":
        scale_residuals(module, graph)
    usual = module.get_parameter("A.0.query.weight").std().item()
    residual = {name for name, param in weights(graph) if param.init == "residual"}
    assert {name.split(".")[-2] for name in residual} == {"output", "down"}
    for name in residual:
        found = module.get_parameter(name).std().item()
        assert found == pytest.approx(usual / math.sqrt(2 * layers), rel=0.03), name


def test_a_run_starts_as_deep_as_told(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    still = dataclasses.replace(
        config, steps=1, learning_rate=1e-12, weight_decay=0.0, init_depth="stored"
    )
    model, scaled = fresh(spec), fresh_module(spec)
    scale_residuals(scaled, build_graph(spec))
    train_module(model, spec, tokens, still, folder)
    for name, weight in scaled.named_parameters():
        torch.testing.assert_close(model.model.get_parameter(name), weight, rtol=0, atol=1e-9)
    assert len(differing(fresh_module(spec), scaled)) == 4
