"""Training at drawn and growing rounds: which they are, what is logged and what they cost."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

from rinsc.backends.torch.helpers import HELPERS
from rinsc.backends.torch.module import load_source
from rinsc.cost import training_flops
from rinsc.data.batches import TokenizedCorpus
from rinsc.errors import GraphError, SpecError
from rinsc.graph import Rounds, build_graph
from rinsc.graph.law import draw_rounds
from rinsc.objectives.next_token import bits_per_byte, held_out_windows
from rinsc.spec import ModelSpec
from rinsc.syntax import parse
from rinsc.training.config import TrainConfig
from rinsc.training.devices import check_fits
from rinsc.training.metrics import read_metrics
from rinsc.training.run import train_module
from rinsc.training.run_folder import RunFolder
from rinsc.training.schedules import Depths
from tests.train.runs import fresh, fresh_module

DRAWN = "(A^5{skip=0.5, adapter=scale})B^2{sample=uniform(1, 3), inject=gate, init=noise}"


@pytest.fixture
def drawn(spec: ModelSpec) -> ModelSpec:
    return dataclasses.replace(spec, signature=parse(DRAWN))


def test_rounds_and_flops_are_those_of_the_steps(
    drawn: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    model = fresh(drawn)
    result = train_module(model, drawn, tokens, config, folder)
    graph = build_graph(drawn)
    drawn_rounds = [draw_rounds(graph, config.seed, step) for step in range(config.steps)]
    flops = [training_flops(graph, 23, batch=3, rounds=rounds) for rounds in drawn_rounds]
    metrics = read_metrics(folder.metrics)
    assert [m.rounds for m in metrics] == drawn_rounds
    assert [m.training_flops for m in metrics] == [sum(flops[: n + 1]) for n in range(len(flops))]
    assert result.training_flops == sum(flops)
    assert len(set(flops)) > 1
    assert result.bits_per_byte == bits_per_byte(model, held_out_windows(tokens, 23))


def test_growing_rounds_are_run_logged_and_counted(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    config: TrainConfig,
    folder: RunFolder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    growing = dataclasses.replace(config, steps=10, rounds_schedule=((0.0, 1), (0.25, 2), (0.6, 4)))
    expected = [1, 1, 1, 2, 2, 2, 4, 4, 4, 4]  # 0.25 of ten steps are past within the third
    visits: list[int] = []
    model = fresh(spec)
    block = model.model.get_submodule("A")
    block.register_forward_hook(lambda *_: visits.append(1) if block.training else None)
    found = train_module(model, spec, tokens, growing, folder)
    metrics = read_metrics(folder.metrics)
    assert [m.rounds for m in metrics] == [{"A": rounds} for rounds in expected]
    costs = [training_flops(spec, 23, batch=3, rounds=rounds) for rounds in expected]
    assert [m.training_flops for m in metrics] == [sum(costs[: n + 1]) for n in range(10)]
    assert found.training_flops == sum(costs) == Depths(spec, growing).planned_flops()
    assert len(visits) == sum(expected)


@pytest.mark.parametrize("percent", range(1, 100))
def test_a_stage_begins_at_the_step_of_its_share(
    spec: ModelSpec, config: TrainConfig, percent: int
) -> None:
    stages = ((0.0, 1), (percent / 100, 2))
    growing = Depths(spec, dataclasses.replace(config, steps=100, rounds_schedule=stages))
    assert [growing.rounds(step) for step in (percent - 1, percent)] == [1, 2]


def test_growing_rounds_are_those_told_whatever_would_be_drawn(
    drawn: ModelSpec, config: TrainConfig
) -> None:
    growing = dataclasses.replace(config, steps=100, rounds_schedule=((0.0, 2), (0.3, 3)))
    depths = Depths(drawn, growing)
    assert [depths.rounds(step) for step in range(100)] == [2] * 30 + [3] * 70
    assert depths.shown_rounds(30) == {"A": 3, "B": 3}
    for until in (0, 1, 29, 30, 31, 100):
        steps = (depths.flops(step) for step in range(until))
        assert depths.flops_until(until) == sum(steps)


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
        assert depths.shown_rounds(step) == (logged or None)
        assert depths.flops(step) == training_flops(graph, 23, batch=3, rounds=expected)
    assert depths.flops_until(20) == sum(depths.flops(step) for step in range(20))


def test_a_model_that_draws_nothing_logs_no_rounds(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder
) -> None:
    train_module(fresh(spec), spec, tokens, config, folder)
    assert all("rounds" not in json.loads(line) for line in folder.metrics.read_text().splitlines())
    assert Depths(spec, config).rounds(3) is None


@pytest.mark.parametrize("seed", [0, 7, 2**63 - 1])
def test_a_part_has_the_noise_of_its_rows(drawn: ModelSpec, config: TrainConfig, seed: int) -> None:
    names = load_source(f"import math\nimport torch\n{HELPERS['noise_like']}")
    depths = Depths(drawn, dataclasses.replace(config, seed=seed))
    whole = names["noise_like"](torch.zeros(6, 5, 3), depths.noise_seed(4))
    for row in range(6):
        part = names["noise_like"](torch.zeros(6 - row, 5, 3), depths.noise_seed(4, row))
        assert torch.equal(part, whole[row:])


def test_noise_differs_from_step_to_step_and_from_that_of_evaluation(
    drawn: ModelSpec, config: TrainConfig
) -> None:
    runs = [Depths(drawn, dataclasses.replace(config, seed=seed)) for seed in range(3)]
    seeds = {run.noise_seed(step) for run in runs for step in range(1000)}
    assert len(seeds) == 3000
    assert 0 not in seeds
    biggest = Depths(drawn, dataclasses.replace(config, seed=2**63 - 1))
    assert 0 < biggest.noise_seed(10**12) < 2**31


@pytest.mark.parametrize("text", ["AB", "A{kind=vit}B"])
def test_what_is_no_language_model_is_refused(
    spec: ModelSpec, tokens: TokenizedCorpus, config: TrainConfig, folder: RunFolder, text: str
) -> None:
    kind = "vit" if text == "AB" else spec.kind
    vision = dataclasses.replace(spec, signature=parse(text), kind=kind)
    with pytest.raises(SpecError) as caught:
        train_module(fresh(spec), vision, tokens, config, folder)
    assert [problem.code for problem in caught.value.problems] == ["not-a-language-model"]
    assert caught.value.hint
    assert list(folder.path.iterdir()) == []


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
    model = fresh_module(cut)
    model(torch.zeros(1, 3, dtype=torch.long), rounds=4).sum().backward()
    assert model.get_parameter("embedding.weight").grad is None
