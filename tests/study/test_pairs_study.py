"""Studies of two towers: planned, run, measured at other rounds, and told."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rinsc.errors import RinscError
from rinsc.spec import TowersSpec
from rinsc.study.estimates import estimates
from rinsc.study.folder import read_plan, write_plan
from rinsc.study.page import page
from rinsc.study.plan import plan_study
from rinsc.study.report import study_report
from rinsc.study.rounds import measure_study_rounds
from rinsc.study.working import work
from tests.data.pairs_made import folder_of_pairs

VARIANTS = ["image: A^2B, text: CD", "image: AB, text: C^3D", "image: A^2{skip=0.5}B, text: C^2D"]
TABLES = {
    "image": {"settings": {"siglip_image": {"image_size": 8, "patch_size": 4}}},
    "text": {"vocab_size": 300, "context": 8},
}
STUDY: dict[str, Any] = {
    "title": "Two towers",
    "baseline": "image: AB, text: CD",
    "variants": VARIANTS,
    "seeds": [1, 2],
    "budgets": ["3e9"],
    "model": {
        **{"preset": "siglip-tiny", "layers": 2, "width": 16, "heads": 2, "mlp_width": 24},
        "towers": TABLES,
    },
    "settings": {"batch_sequences": 8},
}
SETTINGS = {"batch_sequences": 8, "eval_windows": 4}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "data"))
    return f"pairs:{folder_of_pairs(tmp_path / 'set', 60)}"


def study(**changes: Any) -> dict[str, Any]:
    return {**STUDY, "data": "pairs:none", **changes}


def test_every_variant_spends_the_baselines_flops_within_a_step(tmp_path: Path) -> None:
    plan = plan_study(study())
    assert [variant.name for variant in plan.variants] == [STUDY["baseline"], *VARIANTS]
    (target,) = {r.training_flops for r in plan.runs if r.variant == plan.baseline}
    for run in plan.runs:
        spec = plan.variant(run.variant).spec
        assert isinstance(spec, TowersSpec)
        assert [tower.width for tower in spec.specs] == [16, 16]
        assert spec.towers["text"].context == 8
        assert run.training_flops == pytest.approx(target, abs=2 * target / run.config.steps)
    write_plan(plan, tmp_path)
    read = read_plan(tmp_path)
    assert read.digest == plan.digest
    assert [variant.spec for variant in read.variants] == [
        variant.spec for variant in plan.variants
    ]
    needs = estimates(plan, 1e9)
    assert all(estimate.memory_bytes for estimate in needs)
    deeper = {estimate.variant: estimate.memory_bytes for estimate in needs}
    assert (deeper[VARIANTS[1]] or 0) > (deeper[plan.baseline] or 0)


def test_a_study_runs_and_is_told(data: str, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    values = {"variants": VARIANTS[:2], "seeds": [1], "data": data, "settings": SETTINGS}
    values |= {"budgets": ["6steps"]}
    write_plan(plan_study(study(**values)), folder)
    assert work(folder) == 3
    assert measure_study_rounds(folder) == []
    report = study_report(folder)
    assert report.figure == "nats_per_pair"
    assert {state.state for state in report.states} == {"finished"}
    for state in report.states:
        facts = json.loads((folder / "runs" / state.run.name / "result.json").read_text())
        assert state.loss == facts["nats_per_pair"]
    rows = report.by_rounds()
    counts = {name: [row.rounds for row in some] for (name, _), some in rows.items()}
    assert counts[VARIANTS[0]] == [1, 2, 3]
    assert counts[VARIANTS[1]] == [1, 2, 3, 4]
    for some in rows.values():
        flops = [row.inference_flops for row in some]
        assert flops == sorted(set(flops))
    text = page(report)
    assert "nats_per_pair" in text
    assert VARIANTS[0] in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"families": ["rins"]}, "a family is of single models"),
        ({"enumerate": [{"letters": 2, "length": 3}]}, "an enumeration is of single models"),
        ({"match": "parameters"}, "a match of parameters is of single models"),
        ({"variants": ["A^2B"]}, "name each tower"),
        ({"variants": ["rins-a2b"]}, "name each tower"),
        ({"variants": ["image: A^2B, sound: CD"]}, "there are no dimensions for the tower sound"),
        ({"settings": {"objective": "next_token"}}, "a model of one tower"),
    ],
)
def test_what_towers_cannot_do_is_told(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RinscError) as caught:
        plan_study(study(**changes))
    assert words in str(caught.value)


def test_a_baseline_of_one_tower_takes_no_variant_of_several() -> None:
    plain = {"baseline": "AB", "model": {"preset": "tiny"}, "settings": {}, "data": "plays"}
    plain |= {"budgets": ["1e11"]}
    with pytest.raises(RinscError) as caught:
        plan_study(study(**plain, variants=["image: A^2B, text: CD"]))
    assert "tower" in str(caught.value)
    assert dataclasses.is_dataclass(plan_study(study(**plain, variants=["A^2B"])))
