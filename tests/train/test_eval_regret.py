"""The verdict on real runs: its numbers against plain ones, and a broken model is regretted."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rinsc.backends.torch.weight_files import save_weights
from rinsc.cost import forward_flops, training_flops
from rinsc.errors import UsageError
from rinsc.evaluation.evaluate import Measured, evaluate
from rinsc.evaluation.reading_runs import read_pair, read_text, reads_alike
from rinsc.evaluation.verdict import PiecesAt, Verdict, judge, nearest_rounds
from rinsc.graph import build_graph
from rinsc.graph.law import draw_rounds
from rinsc.objectives import Pieces
from rinsc.progress import SilentProgress
from rinsc.spec import model_spec
from rinsc.training.config import TrainConfig
from rinsc.training.finished import FinishedRun
from rinsc.training.opening import finished_run
from tests.train.finished_runs import Runs, baseline, recursive, runs, train

__all__ = ["baseline", "recursive", "runs"]

CPU = torch.device("cpu")


def verdict_losses(
    run: FinishedRun, other: FinishedRun, windows: int | None = None
) -> tuple[PiecesAt, Pieces]:
    ours, theirs = read_pair(run, other, None, windows, SilentProgress())
    first = Measured(run, ours, CPU, lambda done, count: None)
    second = Measured(other, theirs, CPU, lambda done, count: None)
    return first.pieces, second.pieces(other.rounds)


def verdict_of(run: FinishedRun, other: FinishedRun, windows: int | None = None) -> Verdict:
    return judge(run, other, *verdict_losses(run, other, windows))


def test_too_few_windows_decide_nothing(recursive: FinishedRun, baseline: FinishedRun) -> None:
    verdict = verdict_of(recursive, baseline, windows=8)
    assert verdict.outcome == "undecided"
    assert verdict.text.startswith("undecided: too little text, 8 windows of at least 10")


def test_the_trained_rounds_give_what_the_run_noted(recursive: FinishedRun) -> None:
    result = json.loads(recursive.folder.result.read_text())
    text = read_text(recursive, None, None, SilentProgress())
    quality = Measured(recursive, text, CPU, lambda done, count: None).quality(recursive.rounds)
    assert recursive.rounds == {"A": 3}
    for name, value in quality.figures.items():
        assert value == pytest.approx(result[name], rel=1e-6)


def test_the_three_comparisons(recursive: FinishedRun, baseline: FinishedRun) -> None:
    verdict = verdict_of(recursive, baseline)
    notes = [json.loads(run.folder.result.read_text()) for run in (recursive, baseline)]
    first, second, third = verdict.comparisons
    assert [each.equal for each in verdict.comparisons] == [
        *("training FLOPs", "parameters", "inference FLOPs"),
    ]
    assert (first.ours, first.theirs) == tuple(note["training_flops"] for note in notes)
    assert all(each.is_equal for each in verdict.comparisons)
    assert second.ours == sum(p.numel() for p in recursive.model(CPU).parameters())
    assert first.rounds == third.rounds == {"A": 1}
    assert second.rounds == {"A": 3}
    assert second.difference.ours == pytest.approx(notes[0]["bits_per_byte"], rel=1e-6)
    assert second.difference.theirs == pytest.approx(notes[1]["bits_per_byte"], rel=1e-6)
    assert third.ours == third.theirs
    interval = first.difference
    decided = "regret" if interval.low > 0 else "no regret" if interval.high < 0 else "undecided"
    assert verdict.outcome == decided
    assert verdict.text.startswith(f"{decided}: ")


def test_shuffled_weights_are_regretted_and_so_the_other_way_round(
    recursive: FinishedRun, tmp_path: Path
) -> None:
    shutil.copytree(recursive.folder.path, tmp_path / "shuffled")
    shuffled = finished_run(tmp_path / "shuffled")
    model = shuffled.model(CPU)
    torch.manual_seed(0)
    with torch.no_grad():
        table = model.get_parameter("embedding.weight")
        table.copy_(table[torch.randperm(len(table))])
    save_weights(model, shuffled.folder.weights)
    broken = verdict_of(shuffled, recursive)
    assert broken.outcome == "regret"
    assert broken.text.startswith("regret: one round is worse")
    assert "seed" in broken.text
    fine = verdict_of(recursive, shuffled)
    assert fine.outcome == "no regret"
    assert fine.text.startswith("no regret: one round is better")
    assert "seed" in fine.text


def test_a_model_against_itself_cannot_be_told_apart(recursive: FinishedRun) -> None:
    verdict = verdict_of(recursive, recursive)
    itself = verdict.as_trained.difference
    assert (itself.low, itself.high) == (0, 0)
    assert itself.reading == "no difference can be told"
    assert verdict.outcome == "undecided"
    assert verdict.text.startswith("undecided: the run and its baseline are the same model")


def test_a_copy_of_a_run_is_the_run_itself(recursive: FinishedRun, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(recursive.folder.path, tmp_path / "copied"))
    assert verdict_of(recursive, finished_run(copied)).outcome == "undecided"


@pytest.mark.parametrize(
    ("low", "high", "margin", "expected"),
    [
        (-0.02, -0.01, 0.0, "no regret"),
        (0.01, 0.02, 0.0, "regret"),
        (-0.01, 0.02, 0.0, "undecided"),
        (-0.01, 0.0, 0.0, "undecided"),
        (0.0, 0.01, 0.0, "undecided"),
        (-0.01, 0.02, 0.03, "no regret"),
        (0.01, 0.02, 0.03, "no regret"),
        (0.01, 0.02, 0.015, "undecided"),
        (0.02, 0.03, 0.015, "regret"),
        (-math.inf, math.inf, 0.0, "undecided"),
        (-math.inf, math.inf, 1e9, "undecided"),
        (math.inf, math.inf, 0.0, "regret"),
        (-math.inf, -math.inf, 0.0, "no regret"),
    ],
)
def test_the_interval_and_the_margin_decide(
    recursive: FinishedRun,
    baseline: FinishedRun,
    low: float,
    high: float,
    margin: float,
    expected: str,
) -> None:
    found = verdict_of(recursive, baseline)
    ours = 3.0 if low == -high else 3 + (low + high) / 2
    difference = dataclasses.replace(
        found.one_round.difference, ours=ours, theirs=3.0, low=low, high=high
    )
    verdict = dataclasses.replace(
        found,
        one_round=dataclasses.replace(found.one_round, difference=difference),
        margin=margin,
    )
    assert verdict.outcome == expected
    assert verdict.text.startswith(f"{expected}: ")
    assert (verdict.undecided_because is None) == (expected != "undecided")


@pytest.mark.parametrize("margin", [np.float32(0.25), torch.tensor(0.25)], ids=["numpy", "torch"])
def test_a_margin_of_another_library_is_written(
    recursive: FinishedRun, baseline: FinishedRun, tmp_path: Path, margin: Any
) -> None:
    picture = tmp_path / "eval.svg"
    evaluate(recursive, baseline=baseline, margin=margin, windows=12, output=picture)
    assert '"margin": 0.25' in picture.with_suffix(".json").read_text()


@pytest.mark.parametrize("margin", [-0.001, math.nan, math.inf])
def test_a_margin_is_a_number_from_0_up(
    recursive: FinishedRun, baseline: FinishedRun, margin: float
) -> None:
    losses = verdict_losses(recursive, baseline)
    with pytest.raises(UsageError) as caught:
        judge(recursive, baseline, *losses, margin=margin)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("signature", "more"),
    [
        ("A^3{skip=0.5, adapter=linear}B", ()),
        ("A^4{sample=uniform(1, 8)}B", ("--accumulate", "3", "--seed", "5")),
        ("A^3{sample=poisson_lognormal(4, 0.5), inject=add, grad=2}B", ()),
        ("A^3{skip=0.5}B", ("--rounds-schedule", "1@0,2@30%,4@70%")),
    ],
)
def test_a_matched_run_that_draws_gets_a_verdict(
    baseline: FinishedRun, runs: Runs, tmp_path: Path, signature: str, more: tuple[str, ...]
) -> None:
    """It ends at what its own rounds cost, to within the step that would have come next."""
    tokenizer = str(runs.baseline / "tokenizer.json")
    train(
        *(signature, tmp_path / "run", runs.text, "--steps", "97", "--match", "AB"),
        *("--tokenizer", tokenizer, "--eval-every", "10000", *more),
    )
    run = finished_run(tmp_path / "run")
    logged = [json.loads(line) for line in run.folder.metrics.read_text().splitlines()]
    assert logged[-1]["training_flops"] == run.training_flops
    grows = "--rounds-schedule" in more
    rounds = 4 if grows else draw_rounds(run.graph, run.config.seed, run.steps)
    one_more = training_flops(run.graph, 23, batch=3, rounds=rounds)
    assert 0 <= baseline.training_flops - run.training_flops < one_more
    verdict = verdict_of(run, baseline)
    assert verdict.is_equal
    assert "training FLOPs" not in verdict.text


def test_other_training_flops_are_said(recursive: FinishedRun, baseline: FinishedRun) -> None:
    one_step = dataclasses.replace(
        baseline, training_flops=recursive.training_flops + recursive.step_flops
    )
    assert verdict_of(recursive, one_step).is_equal
    twice = dataclasses.replace(baseline, training_flops=2 * recursive.training_flops)
    verdict = verdict_of(recursive, twice)
    assert not verdict.is_equal
    told = "undecided: not at equal training FLOPs, the run spent 50 % fewer; one round is"
    assert verdict.text.startswith(told)
    assert verdict.outcome == "undecided"


@pytest.mark.parametrize(
    ("ours", "words"), [(1005, "+0.5"), (900, "-10"), (1053, "+5.3"), (3010, "+201")]
)
def test_an_excess_in_words(
    recursive: FinishedRun, baseline: FinishedRun, ours: int, words: str
) -> None:
    found = verdict_of(recursive, baseline).one_round
    assert dataclasses.replace(found, ours=ours, theirs=1000).percent == words


def test_another_tokenizer_on_the_same_text(
    recursive: FinishedRun, baseline: FinishedRun, runs: Runs, tmp_path: Path
) -> None:
    train("AB", tmp_path / "ab", runs.text, "--steps", "97", vocab_size=288)
    other = finished_run(tmp_path / "ab")
    assert reads_alike(recursive, baseline)
    assert not reads_alike(recursive, other)
    found = verdict_of(recursive, other).as_trained.difference
    results = [json.loads(run.folder.result.read_text()) for run in (recursive, other)]
    # All of the text but its ends.
    assert found.ours == pytest.approx(results[0]["bits_per_byte"], rel=0.02)
    assert found.theirs == pytest.approx(results[1]["bits_per_byte"], rel=0.02)
    assert 10 < found.blocks < 400
    assert found.low < found.value < found.high


def test_blocks_of_bytes_and_windows_agree(recursive: FinishedRun, baseline: FinishedRun) -> None:
    """Sequences of another length: the same model is read in blocks of bytes."""
    shorter = dataclasses.replace(baseline.config, sequence_length=22)
    other = dataclasses.replace(baseline, config=shorter)
    windows = verdict_of(recursive, baseline).as_trained.difference
    verdict = verdict_of(recursive, other)
    assert verdict.nearest.ours == verdict.nearest.theirs  # at one length, whatever theirs are
    in_bytes = verdict.as_trained.difference
    assert in_bytes.value == pytest.approx(windows.value, abs=0.02)
    width = windows.high - windows.low
    assert in_bytes.high - in_bytes.low == pytest.approx(width, rel=0.5)


@pytest.mark.parametrize("times", [0.1, 1.4, 2.0, 100])
def test_the_nearest_inference_flops(recursive: FinishedRun, times: float) -> None:
    length = recursive.sequence_length
    costs = {
        count: forward_flops(recursive.graph, length, rounds=count).total / length
        for count in range(1, 33)
    }
    wanted = round(times * costs[1])
    nearest = min(costs, key=lambda count: abs(costs[count] - wanted))
    assert nearest_rounds(recursive, wanted) == {"A": nearest}


def test_a_run_without_rounds_has_nothing_to_regret(baseline: FinishedRun) -> None:
    with pytest.raises(UsageError) as caught:
        verdict_of(baseline, baseline)
    assert caught.value.code == "no-repeat"


@pytest.mark.parametrize(
    ("signature", "settings", "expected"),
    [
        ("A^3B", {}, {3}),
        ("A^3B", {"rounds": 2}, {2}),
        ("A^3{skip=0.5}B", {}, {1, 2, 3}),
        ("A^3{skip=0.5}B", {"rounds": 2}, {2}),
        ("A^4{sample=choice(1, 4)}B", {}, {1, 4}),
        ("A^3B", {"rounds_schedule": ((0.0, 1), (0.5, 3))}, {1, 3}),
        ("A^4{sample=poisson_lognormal(4, 0.5)}B", {}, {4}),
    ],
)
def test_which_rounds_were_trained(
    baseline: FinishedRun, signature: str, settings: dict[str, object], expected: set[int]
) -> None:
    graph = build_graph(model_spec(signature, preset="tiny"))
    config = TrainConfig(**settings)  # type: ignore[arg-type]
    run = dataclasses.replace(baseline, graph=graph, config=config)
    assert run.trained_rounds == {"A": expected}
    for count in range(1, 6):
        assert run.is_trained({"A": count}) == (count in expected)


def test_flops_per_token_are_those_of_a_sequence(recursive: FinishedRun) -> None:
    whole = forward_flops(recursive.graph, 23, rounds=2).total
    assert recursive.forward_flops_per_token({"A": 2}) == pytest.approx(whole / 23, abs=0.5)
    assert recursive.training_flops == recursive.steps * recursive.step_flops
