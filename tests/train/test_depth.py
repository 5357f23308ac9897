"""Training at drawn rounds: which they are, what is logged and counted, and resuming."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from torch import nn

from rinsc.backends.torch import CompiledModule, to_torch
from rinsc.cost import training_flops
from rinsc.errors import GraphError, SpecError
from rinsc.graph import Rounds, build_graph
from rinsc.graph.law import draw_rounds
from rinsc.spec import ModelSpec
from rinsc.syntax import parse
from rinsc.train.batches import TokenizedCorpus, TrainingBatches, cut_windows
from rinsc.train.config import TrainConfig
from rinsc.train.depth import Depths
from rinsc.train.evaluate import bits_per_byte
from rinsc.train.fits import check_fits
from rinsc.train.loop import train
from rinsc.train.metrics import read_metrics
from rinsc.train.optimizer import build_optimizer
from rinsc.train.run_folder import open_run_folder
from rinsc.train.schedule import learning_rate
from tests.train.test_checkpoint import StopAt, StoppedError

DRAWN = "(A^5{skip=0.5, adapter=scale})B^2{sample=uniform(1, 3), inject=gate, init=noise}"


@pytest.fixture
def drawn(spec: ModelSpec) -> ModelSpec:
    return dataclasses.replace(spec, signature=parse(DRAWN))


def fresh(spec: ModelSpec) -> CompiledModule:
    torch.manual_seed(5)
    return to_torch(spec)


def plain_losses(
    model: CompiledModule, tokens: TokenizedCorpus, config: TrainConfig, depths: Depths
) -> list[float]:
    """The training written out, with the rounds drawn by the test."""
    optimizer = build_optimizer(model, config)
    batches = TrainingBatches(
        cut_windows(tokens.train, config.sequence_length), config.batch_sequences, config.seed
    )
    losses = []
    for step in range(config.steps):
        ids = torch.from_numpy(batches.batch(step))
        rounds = draw_rounds(build_graph(model.spec), config.seed, step)
        logits = model(ids[:, :-1], rounds=rounds, noise_seed=depths.noise_seed(step))
        loss = -logits.log_softmax(-1).gather(-1, ids[:, 1:, None]).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(config, step)
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_each_step_runs_the_rounds_that_are_drawn_for_it(
    drawn: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, tmp_path: Path
) -> None:
    depths = Depths(drawn, config)
    expected = plain_losses(fresh(drawn), tokens, config, depths)
    other = plain_losses(fresh(drawn), tokens, dataclasses.replace(config, seed=1), depths)
    train(fresh(drawn), drawn, tokens, config, open_run_folder(tmp_path / "run"))
    losses = [m.loss_nats for m in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert losses == pytest.approx(expected, rel=1e-4)
    assert losses != pytest.approx(other, rel=1e-4)


def test_rounds_and_flops_are_those_of_the_steps(
    drawn: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, tmp_path: Path
) -> None:
    model = fresh(drawn)
    result = train(model, drawn, tokens, config, open_run_folder(tmp_path / "run"))
    graph = build_graph(drawn)
    drawn_rounds = [draw_rounds(graph, config.seed, step) for step in range(config.steps)]
    flops = [training_flops(graph, 23, batch=3, rounds=rounds) for rounds in drawn_rounds]
    metrics = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [m.rounds for m in metrics] == drawn_rounds
    assert [m.training_flops for m in metrics] == [sum(flops[: n + 1]) for n in range(len(flops))]
    assert result.training_flops == sum(flops)
    assert len(set(flops)) > 1
    windows = cut_windows(tokens.held_out, 23)
    assert result.bits_per_byte == bits_per_byte(model, windows, tokens.token_bytes)


@pytest.mark.parametrize("stop", [2, 5])
def test_resuming_at_drawn_rounds_is_exact(
    drawn: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, tmp_path: Path, stop: int
) -> None:
    whole = fresh(drawn)
    expected = train(whole, drawn, tokens, config, open_run_folder(tmp_path / "whole"))
    folder = open_run_folder(tmp_path / "broken")
    with pytest.raises(StoppedError):
        train(fresh(drawn), drawn, tokens, config, folder, observer=StopAt(stop))
    resumed = fresh(drawn)
    again = open_run_folder(tmp_path / "broken", resume=True)
    result = train(resumed, drawn, tokens, config, again, resume=True)
    for name, parameter in whole.named_parameters():
        assert torch.equal(parameter, resumed.get_parameter(name)), name
    assert dataclasses.replace(result, seconds=0) == dataclasses.replace(expected, seconds=0)
    runs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "broken")]
    rounds, flops = ([(m.rounds, m.training_flops) for m in run] for run in runs)
    assert rounds == flops


def test_other_draws_after_resuming_would_be_seen(
    drawn: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = fresh(drawn)
    train(whole, drawn, tokens, config, open_run_folder(tmp_path / "whole"))
    folder = open_run_folder(tmp_path / "broken")
    with pytest.raises(StoppedError):
        train(fresh(drawn), drawn, tokens, config, folder, observer=StopAt(2))
    monkeypatch.setattr(
        "rinsc.train.depth.draw_rounds",
        lambda graph, seed, step: draw_rounds(graph, seed + 1, step),
    )
    resumed = fresh(drawn)
    train(resumed, drawn, tokens, config, folder, resume=True)
    assert any(
        not torch.equal(parameter, resumed.get_parameter(name))
        for name, parameter in whole.named_parameters()
    )


@pytest.mark.parametrize(
    ("rounds", "fixed"), [(2, {"A": 2, "B": 2}), ({"A": 4}, {"A": 4}), ({"B": 3}, {"B": 3})]
)
def test_settings_fix_the_rounds_that_they_name(
    drawn: ModelSpec, config: TrainConfig, rounds: Rounds, fixed: dict[str, int]
) -> None:
    depths = Depths(drawn, dataclasses.replace(config, rounds=rounds))
    graph = build_graph(drawn)
    for step in range(20):
        asked = depths.rounds(step)
        expected = draw_rounds(graph, config.seed, step) | fixed
        logged = {name: count for name, count in expected.items() if name not in fixed}
        assert asked == (rounds if len(fixed) == 2 else expected)
        assert depths.drawn_rounds(step) == (logged or None)
        assert depths.flops(step) == training_flops(graph, 23, batch=3, rounds=expected)


def test_a_model_that_draws_nothing_logs_no_rounds(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, tmp_path: Path
) -> None:
    folder = open_run_folder(tmp_path / "run")
    train(fresh(spec), spec, tokens, config, folder)
    assert all("rounds" not in json.loads(line) for line in folder.metrics.read_text().splitlines())
    assert Depths(spec, config).rounds(3) is None


def test_noise_differs_from_step_to_step_and_from_that_of_evaluation(
    drawn: ModelSpec, config: TrainConfig
) -> None:
    runs = [Depths(drawn, dataclasses.replace(config, seed=seed)) for seed in range(3)]
    seeds = {run.noise_seed(step) for run in runs for step in range(1000)}
    assert len(seeds) == 3000
    assert 0 not in seeds
    biggest = Depths(drawn, dataclasses.replace(config, seed=2**63 - 1))
    assert 0 < biggest.noise_seed(10**12) < 2**31


def test_vectors_of_repeats_do_not_decay(spec: ModelSpec, config: TrainConfig) -> None:
    text = (
        "((A^3{adapter=lora(2)})^2{adapter=scale}A)^2{adapter=gate, inject=gate, init=learned}"
        "B^3{adapter=embed, inject=concat} B^2{adapter=linear}"
    )
    model = to_torch(dataclasses.replace(spec, signature=parse(text)))
    decayed, others = build_optimizer(model, config).param_groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    own = [{names[id(p)] for p in g["params"] if "loop" in names[id(p)]} for g in (decayed, others)]
    kinds = [sorted({name.split(".")[-2] for name in group}) for group in own]
    assert kinds == [
        ["adapter", "adapter_down", "adapter_up", "inject"],
        ["adapter", "inject", "start"],
    ]
    matrices = [p for p in decayed["params"] if "loop" in names[id(p)]]
    assert all(parameter.ndim == 3 or "inject" in names[id(parameter)] for parameter in matrices)
    assert all(p.ndim < 3 for p in others["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(names)


@pytest.mark.parametrize("text", ["AB", "A{kind=vit}B"])
def test_what_is_no_language_model_is_refused(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, tmp_path: Path, text: str
) -> None:
    kind = "vit" if text == "AB" else spec.kind
    vision = dataclasses.replace(spec, signature=parse(text), kind=kind)
    model = fresh(spec)
    with pytest.raises(SpecError) as caught:
        train(model, vision, tokens, config, open_run_folder(tmp_path / "run"))
    assert [problem.code for problem in caught.value.problems] == ["not-a-language-model"]
    assert caught.value.hint
    assert list((tmp_path / "run").iterdir()) == []


def test_rounds_that_cut_gradients_off_are_refused(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig
) -> None:
    cut = dataclasses.replace(spec, signature=parse("BA^3{grad=3}"))
    check_fits(cut, tokens, dataclasses.replace(config, rounds=3))
    with pytest.raises(GraphError, match="no gradient") as caught:
        check_fits(cut, tokens, dataclasses.replace(config, rounds={"A": 4}))
    assert caught.value.hint
    injected = dataclasses.replace(spec, signature=parse("BA^3{grad=3, inject=add}"))
    check_fits(injected, tokens, dataclasses.replace(config, rounds=4))
    model = fresh(cut)
    model(torch.zeros(1, 3, dtype=torch.long), rounds=4).sum().backward()
    assert model.get_parameter("embedding.weight").grad is None
