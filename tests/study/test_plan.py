"""Plans of studies: which runs there are, that they stay the same, and every mistake at once."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rinsc.errors import RinscError, SpecError
from rinsc.extras import zoo_dir
from rinsc.spec import ModelSpec
from rinsc.study.folder import read_plan, write_plan
from rinsc.study.plan import Plan, plan_study
from rinsc.training.budget import spending
from tests.cli.command_line import run_cli

STUDY: dict[str, Any] = {
    "title": "Two variants",
    "variants": ["A^2B", "AB^2"],
    "baseline": "AB",
    "data": "plays",
    "seeds": [1, 2],
    "budgets": ["1e10", "2e10"],
    "model": {"preset": "tiny", "layers": 2, "width": 32, "vocab_size": 256, "context": 64},
    "settings": {"batch_sequences": 4},
}


def study(**changes: Any) -> dict[str, Any]:
    return {**STUDY, **changes}


def test_the_runs_are_variants_times_budgets_times_seeds() -> None:
    plan = plan_study(STUDY)
    expected = {
        (variant, budget, seed)
        for variant in ("AB", "A^2B", "AB^2")
        for budget in STUDY["budgets"]
        for seed in STUDY["seeds"]
    }
    assert {(run.variant, run.budget, run.seed) for run in plan.runs} == expected
    assert len({run.name for run in plan.runs}) == len(plan.runs) == len(expected)
    flops = [run.training_flops for run in plan.runs]
    assert flops == sorted(flops)


def test_every_run_spends_the_baselines_flops_within_a_step() -> None:
    plan = plan_study(study(variants=["A^2B", "A^3{skip=0.5, adapter=linear}B", "A^2"]))
    for run in plan.runs:
        spec = plan.variant(run.variant).spec
        (theirs,) = [
            other.training_flops
            for other in plan.runs
            if (other.variant, other.budget, other.seed) == ("AB", run.budget, run.seed)
        ]
        step = run.training_flops // run.config.steps
        assert abs(run.training_flops - theirs) <= 3 * step  # a drawn step has up to 3 rounds
        assert run.training_flops == spending(run.config, spec).training_flops


def test_matching_tokens_gives_all_the_same_steps() -> None:
    plan = plan_study(study(match="tokens", budgets=["100steps"]))
    assert {run.config.steps for run in plan.runs} == {100}


def test_the_same_plan_names_the_same_runs_in_another_process() -> None:
    code = (
        "import json, sys; from rinsc.study.plan import plan_study; "
        "plan = plan_study(json.loads(sys.argv[1])); print(*[run.name for run in plan.runs]); "
        "assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    command = [sys.executable, "-c", code, json.dumps(STUDY)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [run.name for run in plan_study(STUDY).runs]


@pytest.mark.parametrize(
    "change",
    [
        {"data": "text:other"},
        {"model": {**STUDY["model"], "width": 64}},
        {"settings": {"batch_sequences": 8}},
        {"settings": {"batch_sequences": 4, "learning_rate": 1e-3}},
    ],
)
def test_whatever_decides_a_run_is_in_its_name(change: dict[str, Any]) -> None:
    names = {run.name for run in plan_study(STUDY).runs}
    assert not names & {run.name for run in plan_study(study(**change)).runs}


def test_a_run_more_leaves_the_others_as_they_are() -> None:
    names = {run.name for run in plan_study(STUDY).runs}
    assert names < {run.name for run in plan_study(study(seeds=[1, 2, 3])).runs}


def test_equal_models_are_planned_once() -> None:
    plan = plan_study(study(variants=["A^2B", "AAB", "rins-a2b", "(A^1)B"]))
    assert [each.name for each in plan.variants] == ["AB", "A^2B"]
    assert sum("same model" in note for note in plan.notes) == 3


def test_members_of_a_family_that_do_not_divide_are_left_out_and_said() -> None:
    plan = plan_study(
        study(variants=["A^2BC"], families=["rins"], model={**STUDY["model"], "layers": 4})
    )
    names = [each.name for each in plan.variants]
    assert "A^2BC" in names  # which is named
    assert "AB^2C" not in names
    assert "A^2BC has an uneven split of 4 layers: earlier blocks have more" in plan.notes
    assert any("AB^2C" in note and "left out" in note for note in plan.notes)


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"budgets": []}, "bad-study", "a study needs a budget"),
        ({"budgets": ["1"]}, "budget-too-small", "pay for no step"),
        ({"budgets": ["1e10", "10e9"]}, "same-run", "1e10 and 10e9 give AB the same run"),
        ({"budgets": ["9steps", "9steps"]}, "same-run", "the same run"),
        ({"baseline": ""}, "bad-study", "a study needs a baseline"),
        ({"budgets": ["much"]}, "usage", "does not take"),
        ({"seeds": [1, 1]}, "bad-study", "different whole numbers"),
        ({"seeds": [-1]}, "bad-study", "different whole numbers"),
        ({"seeds": "1"}, "bad-study", "must be a list"),
        ({"baseline": "A^"}, "bad-power", ""),
        ({"match": "hours"}, "bad-study", "training FLOPs"),
        ({"sedes": [1]}, "unknown-key", "seeds"),
        ({"families": ["rnis"]}, "unknown-family", "rins"),
        ({"settings": {"steps": 3}}, "bad-study", "budgets"),
        ({"settings": {"batch": 3}}, "unknown-key", "batch"),
        ({"settings": {"sequence_length": 99999}}, "beyond-context", ""),
        ({"model": {"width": 30, "heads": 4, "preset": "tiny"}}, "does-not-divide", ""),
        ({"model": {"signature": "A", "preset": "tiny"}}, "bad-study", ""),
        ({"model": {"preset": "tiny", "kind": "vit"}}, "not-a-language-model", ""),
        ({"variants": ["image: A, text: B"]}, "", ""),
        ({"seeds": list(range(60_000))}, "too-many-runs", "at most 100,000"),
    ],
)
def test_a_mistake_is_one_error_with_a_hint(change: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(RinscError) as caught:
        plan_study(study(**change))
    assert code in ("", caught.value.code)
    assert says in str(caught.value)
    assert all(problem.hint for problem in caught.value.problems)


def test_one_seed_is_said() -> None:
    assert any("one seed: no interval" in note for note in plan_study(study(seeds=[1])).notes)
    assert not any("one seed" in note for note in plan_study(STUDY).notes)


def test_budgets_that_share_their_steps_are_told() -> None:
    settings = {**STUDY["settings"], "schedule": "wsd"}
    assert any("too narrow" in note for note in plan_study(study(settings=settings)).notes)
    one = study(settings=settings, budgets=STUDY["budgets"][:1])
    assert not any(
        "too narrow" in note for note in (*plan_study(one).notes, *plan_study(STUDY).notes)
    )


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        plan_study(study(variants=["A^", "(B", "A^2B"], families=["nobody"]))
    assert {problem.place for problem in caught.value.problems} >= {"A^", "(B"}
    assert len(caught.value.problems) == 3


def test_a_written_plan_is_read_back(tmp_path: Path) -> None:
    plan = plan_study(STUDY)
    write_plan(plan, tmp_path)
    assert read_plan(tmp_path) == plan
    write_plan(plan, tmp_path)
    with pytest.raises(RinscError) as caught:
        write_plan(plan_study(study(seeds=[3])), tmp_path)
    assert caught.value.code == "another-study"


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"version": 1}', b"[" * 100_000, b"\xff", b'{"runs": 5}']
)
def test_a_damaged_plan_is_one_error(tmp_path: Path, damage: bytes) -> None:
    path = write_plan(plan_study(STUDY), tmp_path)
    path.write_bytes(damage)
    with pytest.raises(SpecError) as caught:
        read_plan(tmp_path)
    assert caught.value.code == "damaged-study"


def test_a_run_taken_out_of_a_plan_is_noticed(tmp_path: Path) -> None:
    path = write_plan(plan_study(STUDY), tmp_path)
    facts = json.loads(path.read_text())
    del facts["runs"][0]
    path.write_text(json.dumps(facts))
    with pytest.raises(SpecError, match="digest"):
        read_plan(tmp_path)


@pytest.mark.parametrize(
    "path", sorted((zoo_dir() / "studies").glob("*.toml")), ids=lambda p: p.stem
)
def test_the_studies_of_the_zoo_are_sound(path: Path) -> None:
    plan: Plan = plan_study(path)
    assert len(plan.runs) >= 8
    status, out, err = run_cli("study", "plan", str(path))
    assert (status, err) == (0, "")
    assert plan.digest in out


def test_a_baseline_of_the_zoo_brings_its_signature_alone() -> None:
    named, written = (plan_study(study(baseline=name)) for name in ("rins-a2b", "A^2B"))
    assert [run.name for run in named.runs] == [run.name for run in written.runs]
    specs = [variant.spec for variant in named.variants]
    assert {spec.width for spec in specs if isinstance(spec, ModelSpec)} == {32}


@pytest.mark.parametrize("name", ["-x", "my study's", "$HOME"])
def test_the_next_command_can_be_pasted(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "plan.toml").write_text(
        'baseline = "AB"\nvariants = ["A^2B"]\nbudgets = ["1e12"]\n'
    )
    monkeypatch.chdir(tmp_path)
    status, _, err = run_cli("study", "plan", "plan.toml", "-o", f"./{name}")
    assert status == 0
    (line,) = (line for line in err.splitlines() if line.startswith("next: rinsc study run "))
    folder = shlex.split(line)[-1]
    assert run_cli("study", "status", folder)[:2] == (0, "2 runs: 2 waiting\n")


def test_the_hours_in_the_docs_are_those_of_the_plans() -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text()
    rows = dict(re.findall(r"^\| `(\w[\w-]*)\.toml` \|.*\| ([\d.]+) \|$", page, re.MULTILINE))
    assert set(rows) == {"rins", "scaling", "no-regret", "siglip"}
    for name, hours in rows.items():
        plan = plan_study(zoo_dir() / "studies" / f"{name}.toml")
        assert plan.training_flops / 25e9 / 3600 == pytest.approx(float(hours), abs=0.05)
