"""Variants of studies: enumerations, matching of sizes, other objectives, and what each needs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import rinsc
from rinsc.errors import RinscError
from rinsc.spec import ModelSpec
from rinsc.study.estimates import estimates, hours_left
from rinsc.study.folder import RunState, write_plan
from rinsc.study.plan import plan_study
from rinsc.study.report import study_report
from rinsc.study.working import work
from tests.cli.command_line import run_cli
from tests.study.test_plan import STUDY, study

TINY = {"preset": "tiny"}


def test_an_enumeration_is_that_of_the_command() -> None:
    model = {"preset": "tiny", "layers": 6}
    table = {"letters": 2, "length": 4, "max_cost_ratio": 1.6, "min_layers_executed": 8}
    plan = plan_study(study(enumerate=[table], variants=["AAB"], model=model))
    options = ["--letters", "2", "--length", "4", "--preset", "tiny", "--layers", "6", "--strict"]
    bounds = ["--max-cost-ratio", "1.6", "--min-layers-executed", "8"]
    done = run_cli("zoo", "enumerate", *options, *bounds, "--json")
    signatures = [row["signature"] for row in json.loads(done.out)]
    assert len(signatures) >= 3
    assert "A^2B" in signatures
    expected = ["AB", "AAB", *(name for name in signatures if name != "A^2B")]
    assert [variant.name for variant in plan.variants] == expected
    assert "A^2B is the same model as AAB, and is left out" in plan.notes
    few = plan_study(study(enumerate=[{**table, "limit": 2}], variants=[], model=model))
    assert [variant.name for variant in few.variants] == ["AB", *signatures[:2]]


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"enumerate": [{"letters": 2}]}, "bad-study", "letters and length"),
        ({"enumerate": [{"letters": 2, "length": 3, "blocks": 2}]}, "unknown-key", "letters"),
        ({"enumerate": [{"letters": 99, "length": 3}]}, "bad-bounds", "from 1 to 8"),
        ({"enumerate": [{"letters": 2, "length": 3, "limit": 0}]}, "bad-study", "at least 1"),
        ({"enumerate": [{"letters": 2, "length": 3, "min_parameters": "x"}]}, "bad-type", "number"),
        ({"enumerate": [{"letters": 2, "length": 3, "min_cost_ratio": 9}]}, "no-variants", "widen"),
        ({"enumerate": [3]}, "bad-study", "tables"),
        (
            {
                "enumerate": [{"letters": 3, "length": 16, "strict": False}],
                "model": {"preset": "tiny", "layers": 12},
                "seeds": list(range(1000)),
            },
            "too-many-runs",
            "limit = 20",
        ),
        ({"match": "inference FLOPs", "variants": ["A^900B"]}, "cannot-match", "fewer rounds"),
    ],
)
def test_a_mistake_is_one_error_with_a_hint(change: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(RinscError) as caught:
        plan_study(study(**change))
    assert (caught.value.code, len(caught.value.problems)) == (code, 1)
    assert says in str(caught.value)
    assert caught.value.hint


NAMES = ["A^2B", "A^4", "A^3{adapter=linear}B", "A^2{skip=0.5}B", "A"]


def test_models_are_made_as_dear_to_run_as_the_baseline() -> None:
    plan = plan_study(study(match="inference FLOPs", variants=NAMES, model=TINY))
    baseline = rinsc.model_spec("AB", preset="tiny")
    target = rinsc.cost_report(baseline).forward_flops
    assert len(plan.variants) == 1 + len(NAMES) - 1  # "A" is the baseline
    for variant in plan.variants:
        report = rinsc.cost_report(variant.spec)
        assert report.forward_flops == pytest.approx(target, rel=0.01)
        assert isinstance(variant.spec, ModelSpec)
        assert (variant.spec.layers, variant.spec.heads) == (baseline.layers, baseline.heads)
    assert any("A^2B has width" in note for note in plan.notes)
    by_budget = {run.budget: run.training_flops for run in plan.runs if run.variant == "AB"}
    for run in plan.runs:
        step = run.training_flops / run.config.steps
        assert run.training_flops == pytest.approx(by_budget[run.budget], abs=3 * step)


def test_models_are_made_as_large_as_the_baseline() -> None:
    plan = plan_study(study(match="parameters", variants=NAMES, model=TINY))
    sizes = [rinsc.cost_report(variant.spec).stored_params for variant in plan.variants]
    assert [variant.parameters for variant in plan.variants] == sizes
    assert all(size == pytest.approx(sizes[0], rel=0.01) for size in sizes)
    spec = plan.variant("A^2B").spec
    assert isinstance(spec, ModelSpec)
    assert spec.width == 64  # it has as many to begin with


def test_members_that_cannot_be_matched_are_left_out_and_said() -> None:
    model = {**STUDY["model"], "layers": 24, "width": 16, "heads": 2, "mlp_width": 32}
    plan = plan_study(study(match="inference FLOPs", variants=[], families=["rins"], model=model))
    assert len(plan.variants) > 10
    assert any(note.endswith("of the baseline to within 1%") for note in plan.notes)


def test_pictures_are_classified_by_a_study(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    ports = {"kind": "vit", "patch_width": 4, "context": 16, "vocab_size": 10}
    sizes = {"layers": 2, "width": 32, "heads": 2, "kv_heads": 2, "mlp_width": 64}
    settings = {"objective": "classify", "batch_sequences": 16, "learning_rate": 1e-2}
    values = {"model": {**ports, **sizes}, "settings": settings, "data": "digits"}
    plan = plan_study(study(**values, variants=["A^2B"], budgets=["15steps"]))
    write_plan(plan, tmp_path)
    assert work(tmp_path) == 4
    report = study_report(tmp_path)
    assert report.figure == "accuracy"
    assert {state.state for state in report.states} == {"finished"}
    for state in report.states:
        facts = json.loads((tmp_path / "runs" / state.run.name / "result.json").read_text())
        assert state.loss == 1 - facts["accuracy"]


def test_needs_are_those_of_the_cost_model() -> None:
    plan = plan_study(study(settings={"batch_sequences": 4, "accumulate": 2}))
    for estimate in estimates(plan, 1e9):
        spec = plan.variant(estimate.variant).spec
        report = rinsc.cost_report(spec, batch=2).memory
        bytes_ = report.weight_bytes + report.gradient_bytes + report.optimizer_bytes
        assert estimate.memory_bytes == bytes_ + report.activation_bytes
        flops = sum(r.training_flops for r in plan.runs if r.variant == estimate.variant)
        assert estimate.hours == pytest.approx(flops / 1e9 / 3600)
    assert [estimate.hours for estimate in estimates(plan)] == [None] * 3
    with pytest.raises(RinscError, match="above 0"):
        estimates(plan, -1)


def test_hours_that_are_left_follow_from_finished_runs() -> None:
    first, second, *_ = plan_study(STUDY).runs
    waiting = RunState(second, "waiting")
    assert hours_left([waiting]) is None
    finished = RunState(first, "finished", 1.0, first.training_flops, 60.0)
    expected = 60 / 3600 * second.training_flops / first.training_flops
    assert hours_left([finished, waiting]) == pytest.approx(expected)


def test_the_command_prints_needs(tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(
        'baseline = "AB"\nbudgets = ["1e12"]\nvariants = ["A^2B"]\n[model]\npreset = "tiny"\n'
    )
    status, out, _ = run_cli("study", "plan", str(path), "--flops-per-second", "1e9")
    assert status == 0
    assert "memory" in out
    assert "33 minutes of one worker at 1e+09 FLOP/s" in out
    done = run_cli("study", "plan", str(path), "--rate", "tuned", "--json")
    facts = json.loads(done.out)
    assert facts["tuning"]["trials"] == 5
    assert facts["estimates"][0]["memory_bytes"] > 0
