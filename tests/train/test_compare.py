"""A pair of runs: old ones are kept until both new ones can start."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest

from rinsc.cost import match_compute, training_flops
from rinsc.data.batches import TokenizedCorpus
from rinsc.data.tokenizer import BytePairTokenizer
from rinsc.errors import RinscError
from rinsc.graph import build_graph
from rinsc.graph.law import draw_rounds
from rinsc.spec import ModelSpec
from rinsc.syntax import parse
from rinsc.training.compare import train_pair
from rinsc.training.config import TrainConfig
from rinsc.training.metrics import Observer
from tests.train.runs import Recorder


def quiet(_: str) -> AbstractContextManager[Observer]:
    return nullcontext(Recorder())


def test_old_runs_go_only_when_both_new_ones_can_start(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    tokenizer: BytePairTokenizer,
    config: TrainConfig,
    tmp_path: Path,
) -> None:
    baseline = dataclasses.replace(spec, signature=parse("AB"))
    plan = match_compute(baseline, spec, tokens=23 * 3 * 4, batch_tokens=23 * 3, seq=23)
    old = [tmp_path / side / "result.json" for side in ("baseline", "variant")]
    for path in old:
        path.parent.mkdir()
        path.write_text("old")
    unfit = dataclasses.replace(spec, vocab_size=spec.vocab_size - 1)
    with pytest.raises(RinscError):
        train_pair(baseline, unfit, plan, tokens, tokenizer, config, tmp_path, quiet)
    assert [path.read_text() for path in old] == ["old", "old"]
    train_pair(baseline, spec, plan, tokens, tokenizer, config, tmp_path, quiet)
    assert "old" not in [path.read_text() for path in old]


def test_a_variant_that_draws_its_rounds_ends_at_the_budget_of_the_baseline(
    spec: ModelSpec,
    tokens: TokenizedCorpus,
    tokenizer: BytePairTokenizer,
    config: TrainConfig,
    tmp_path: Path,
) -> None:
    """Its seed draws few rounds at first, so that the plan, an expectation, has too few steps."""
    baseline, drawn = (
        dataclasses.replace(spec, signature=parse(text)) for text in ("AB", "(A^5{skip=0.5})B")
    )
    settings = dataclasses.replace(config, seed=3)
    plan = match_compute(baseline, drawn, tokens=23 * 3 * 25, batch_tokens=23 * 3, seq=23)
    sides = train_pair(baseline, drawn, plan, tokens, tokenizer, settings, tmp_path, quiet)
    budget, spent = (side.result.training_flops for side in sides)
    steps = sides[1].result.steps
    costs = [
        training_flops(drawn, 23, batch=3, rounds=draw_rounds(build_graph(drawn), 3, step))
        for step in range(steps + 1)
    ]
    assert spent == sum(costs[:-1]) <= budget < sum(costs)
    assert steps != plan.variant_steps
