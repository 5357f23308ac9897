"""Learning rates of studies: equal trials for all, rates from trials alone, and what goes wrong."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.errors import RinscError
from rinsc.spec import spec_to_toml
from rinsc.study.folder import StudyFolder, read_plan, write_plan
from rinsc.study.plan import Plan, PlannedRun, plan_study
from rinsc.study.rates import chosen_rate, grid, loss_at, next_rate
from rinsc.study.report import study_report
from rinsc.study.tuning import TunedRate, job_states, resolved, study_states, tuned_rates
from rinsc.study.working import work, work_on
from rinsc.training.config import config_to_toml
from tests.cli.command_line import run_cli
from tests.study.test_plan import study

Loss = Callable[[PlannedRun], float]


@pytest.fixture
def train_by(monkeypatch: pytest.MonkeyPatch) -> Callable[[Loss], None]:
    """Runs end at once with the loss that a formula gives them."""

    def patch(loss: Loss) -> None:
        def done(study_folder: StudyFolder, plan: Plan, run: PlannedRun) -> None:
            folder = study_folder.run(run).path
            figure = loss(run)
            if math.isinf(figure):
                return study_folder.end(run, "diverged", "the loss is not finite")
            if math.isnan(figure):
                return study_folder.end(run, "failed", "a kind of somebody else's")
            folder.mkdir(parents=True)
            facts = {"seed": run.seed, "steps": run.config.steps, "bits_per_byte": figure}
            facts |= {"training_flops": run.training_flops, "seconds": 1.0}
            (folder / "result.json").write_text(json.dumps(facts))

        monkeypatch.setattr("rinsc.study.working._do", done)

    return patch


def planned(folder: Path, **changes: Any) -> Plan:
    plan = plan_study(study(**{"tuning": {}, **changes}))
    write_plan(plan, folder)
    return plan


def by_variant(folder: Path) -> dict[str, TunedRate]:
    return {t.variant: t for t in tuned_rates(StudyFolder(folder), read_plan(folder))}


def bowl(best: float, width: float = 0.1) -> Callable[[float], float]:
    return lambda rate: 2 + width * math.log2(rate / best) ** 2


def test_a_parabola_in_log_rate_gives_the_rate() -> None:
    rates, losses = (1e-3, 2e-3, 2.828e-3), (2.5, 2.31, 2.34)
    curve = np.polyfit(np.log(rates), losses, 2)
    expected = math.exp(-curve[1] / 2 / curve[0])
    measured = list(zip(rates, losses, strict=True))
    choice = chosen_rate(measured)
    assert choice is not None
    assert choice.rate == pytest.approx(expected, rel=1e-3)
    assert choice.loss == pytest.approx(np.polyval(curve, math.log(expected)))
    assert loss_at(measured, 1.2e-3) == pytest.approx(np.polyval(curve, math.log(1.2e-3)))
    assert loss_at(measured, 5e-4) is None
    assert loss_at([*measured, (8e-3, 3.0), (16e-3, math.inf)], 8e-3) == pytest.approx(3.0)


@given(
    steps=st.lists(st.integers(-12, 12), min_size=3, max_size=8, unique=True),
    data=st.data(),
)
def test_the_rate_is_that_of_least_squares(steps: list[int], data: Any) -> None:
    losses = [data.draw(st.one_of(st.just(math.inf), st.floats(1, 9))) for _ in steps]
    measured = sorted((2e-3 * 2 ** (step / 4), y) for step, y in zip(steps, losses, strict=True))
    choice = chosen_rate(measured)
    assert next_rate(measured) not in dict(measured)
    if choice is None:
        assert set(losses) == {math.inf}
        return
    index = min(range(len(steps)), key=lambda number: measured[number][1])
    best = measured[index][0]
    beside = [y for _, y in measured[max(0, index - 1) : index + 2]]
    assert choice.is_at_edge == (len(beside) < 3 or math.inf in beside)
    near = [(x, y) for x, y in measured if best / 2.001 < x < best * 2.001 and y < math.inf]
    x, y = np.log([x / best for x, _ in near]), [y for _, y in near]
    if choice.is_at_edge or len(near) < 3:
        assert choice.rate == pytest.approx(best, rel=1e-3)
        return
    curve = np.polyfit(x, y, 2)
    if curve[0] > 1e-6:
        vertex = min(max(-curve[1] / 2 / curve[0], min(x)), max(x))
        assert choice.rate == pytest.approx(best * math.exp(vertex), rel=1e-3)
        assert choice.loss == pytest.approx(np.polyval(curve, vertex), rel=1e-4, abs=1e-4)
        loss = loss_at(measured, best)
        assert loss == pytest.approx(np.polyval(curve, 0.0), rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    ("losses", "follows"),
    [
        ((3, 2, 1), 8e-3),
        ((1, 2, 3), 5e-4),
        ((2, 1, 3), 1.414e-3),
        ((2, 1, math.inf), 1.414e-3),
        ((1, math.inf, math.inf), 5e-4),
        ((math.inf,) * 3, 5e-4),
        ((1, 1, 1), 5e-4),
    ],
)
def test_the_next_trial_goes_beyond_an_edge_or_beside_the_best(
    losses: tuple[float, ...], follows: float
) -> None:
    assert next_rate(list(zip(grid(2e-3), losses, strict=True))) == follows


def test_every_variant_has_the_same_trials(tmp_path: Path, train_by: Any) -> None:
    best = {"AB": 2.5e-3, "A^2B": 9e-4, "AB^2": 7e-3}
    seen: list[PlannedRun] = []

    def loss(run: PlannedRun) -> float:
        seen.append(run)
        return bowl(best[run.variant])(run.config.learning_rate) + run.seed / 1e4

    train_by(loss)
    plan = planned(tmp_path, tuning={"seeds": [101, 102]})
    counts = {v.name: sum(t.variant == v.name for t in plan.trials) for v in plan.variants}
    assert set(counts.values()) == {5 * 2}
    assert {run.budget for run in plan.trials} == {"1e10"}  # the smallest
    assert work(tmp_path) == len(plan.jobs) == 3 * (10 + 4)
    tuned = by_variant(tmp_path)
    for name, rate in best.items():
        assert tuned[name].rate == pytest.approx(rate, rel=0.01)
        assert not tuned[name].at_edge
        penalty = bowl(rate)(best["AB"]) - 2
        assert tuned[name].penalty == pytest.approx(penalty, abs=0.03)  # straight lines lie above
        ranked = {r.config.learning_rate for r in seen if r.variant == name and r.trial is None}
        assert ranked == {tuned[name].rate}
    assert [each.run for each in study_states(StudyFolder(tmp_path), plan)] == list(plan.runs)
    assert not {r.seed for r in plan.runs} & {r.seed for r in plan.trials}


def test_the_rate_is_no_part_of_a_name_but_its_rule_is() -> None:
    names = {run.name for run in plan_study(study(tuning={})).jobs}
    assert names == {run.name for run in plan_study(study(rate="tuned")).jobs}
    for other in ({"trials": 4}, {"seeds": [7]}, {"rates": [1e-3, 2e-3, 4e-3, 8e-3]}):
        assert not names & {run.name for run in plan_study(study(tuning=other)).runs}
    fixed = {run.name for run in plan_study(study()).jobs}
    assert not names & fixed
    assert fixed == {run.name for run in plan_study(study(tuning={}), rate="fixed").jobs}


def test_a_trial_that_diverges_is_a_result(tmp_path: Path, train_by: Any) -> None:
    def loss(run: PlannedRun) -> float:
        rate = run.config.learning_rate
        return math.inf if rate > 3e-3 or run.variant == "A^2B" else bowl(2e-3)(rate)

    train_by(loss)
    plan = planned(tmp_path)
    work(tmp_path)
    tuned = by_variant(tmp_path)
    assert tuned["AB"].rate == pytest.approx(2e-3, rel=0.01)
    assert tuned["A^2B"].rate is None
    assert "all 5 trials diverged, down to 0.00025" in tuned["A^2B"].message
    states = study_states(StudyFolder(tmp_path), plan)
    assert {s.state for s in states if s.run.variant == "A^2B"} == {"failed"}
    assert {s.state for s in states if s.run.variant != "A^2B"} == {"finished"}
    out = run_cli("study", "status", str(tmp_path)).out
    assert out.startswith("15 trials: 8 finished, 7 diverged\n12 runs: 8 finished, 4 failed\n")
    assert "all 5 trials diverged" in out
    assert ", diverged" not in out.partition("\n12 runs")[2]
    facts = json.loads(run_cli("study", "status", str(tmp_path), "--json").out)
    assert [row["trial"] is None for row in facts] == [False] * 15 + [True] * 12


def test_a_variant_whose_trial_fails_has_no_rate_until_it_is_repeated(
    tmp_path: Path, train_by: Any
) -> None:
    broken = [True]

    def loss(run: PlannedRun) -> float:
        if broken and run.variant == "A^2B" and run.config.learning_rate == 4e-3:
            return math.nan
        return bowl(2e-3)(run.config.learning_rate)

    train_by(loss)
    plan, folder = planned(tmp_path), StudyFolder(tmp_path)
    work(tmp_path)
    states = job_states(folder, plan)
    assert all(state.is_over for state in states)
    failed = [state for state in states if state.state == "failed"]
    assert {state.run.variant for state in failed} == {"A^2B"}
    assert len(failed) == 1 + 2 + 4  # the trial, those after it, and the runs
    assert "failed: a kind of somebody else's" in by_variant(tmp_path)["A^2B"].message
    broken.clear()
    for run in plan.jobs:
        folder.forget_failure(run)
    assert work(tmp_path) == len(failed)
    assert {state.state for state in job_states(folder, plan)} == {"finished"}


def test_runs_at_the_rate_of_earlier_results_are_found(tmp_path: Path, train_by: Any) -> None:
    train_by(lambda run: bowl(2.4e-3)(run.config.learning_rate))
    plan, folder = planned(tmp_path), StudyFolder(tmp_path)
    work(tmp_path)
    for run in (plan.runs[0], next(run for run in plan.trials if run.trial == 3)):
        own = resolved(folder, plan, run)
        assert own is not None
        settings = folder.run(run).config
        settings.write_text(config_to_toml(own.config))
        assert {state.state for state in job_states(folder, plan)} == {"finished"}
        other = dataclasses.replace(own.config, learning_rate=0.5)
        settings.write_text(config_to_toml(other))
        changed = next(state for state in job_states(folder, plan) if state.run == run)
        assert changed.state == "failed"
        assert f"trained at 0.5, and its trials now give {own.config.learning_rate:g}" in (
            changed.message
        )
        if run.trial is not None:
            assert "trained at 0.5" in by_variant(tmp_path)[run.variant].message
        settings.unlink()


def test_one_run_brings_its_trials(tmp_path: Path, train_by: Any) -> None:
    train_by(lambda run: bowl(2e-3)(run.config.learning_rate))
    plan = planned(tmp_path)
    assert resolved(StudyFolder(tmp_path), plan, plan.runs[0]) is None
    assert work_on(tmp_path, plan.runs[0].name).state == "finished"
    finished = [s.run for s in job_states(StudyFolder(tmp_path), plan) if s.is_over]
    assert len(finished) == 5 + 1
    own = resolved(StudyFolder(tmp_path), plan, plan.runs[0])
    assert own is not None
    assert own.name == plan.runs[0].name


def test_larger_budgets_take_the_rate_of_the_largest_trials_below(tmp_path: Path) -> None:
    budgets = ["1e10", "2e10", "4e10", "8e10"]
    plan = planned(tmp_path, budgets=budgets, tuning={"budgets": ["2e10", "4e10"]})
    by_budget = {run.budget: run.tuned_at for run in plan.runs}
    assert by_budget == dict(zip(budgets, ("2e10", "2e10", "4e10", "4e10"), strict=True))
    assert read_plan(tmp_path) == plan


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        ({"tuning": {"seeds": [2, 3]}}, "seed-in-ranking", "the seed 2 both tunes and ranks"),
        ({"rate": "tuned", "seeds": [101]}, "seed-in-ranking", "the seed 101"),
        ({"tuning": {"trails": 3}}, "unknown-key", "trials"),
        ({"tuning": {"trials": 2}}, "bad-study", "from 3 to 15"),
        ({"tuning": {"trials": 3, "rates": [1, 2, 3, 4]}}, "bad-study", "at least 4"),
        ({"tuning": {"rates": [1e-3, -1, 2e-3]}}, "bad-study", "numbers above 0"),
        ({"tuning": {"budgets": ["1"]}}, "budget-too-small", "pay for no step"),
        ({"tuning": {"budgets": []}}, "bad-study", "texts"),
        ({"tuning": 3}, "bad-study", "a table"),
        ({"rate": "best"}, "bad-study", "tuned, fixed"),
    ],
)
def test_a_mistake_is_one_error_with_a_hint(change: dict[str, Any], code: str, says: str) -> None:
    with pytest.raises(RinscError) as caught:
        plan_study(study(**change))
    assert (caught.value.code, len(caught.value.problems)) == (code, 1)
    assert says in str(caught.value)
    assert caught.value.hint


def test_one_rate_for_all_is_said(tmp_path: Path) -> None:
    assert "one learning rate for all variants, 0.002" in plan_study(study()).notes[-1]
    assert not plan_study(study(tuning={})).notes
    assert by_variant_of(planned(tmp_path, rate="fixed"), tmp_path) == ()


def by_variant_of(plan: Plan, folder: Path) -> tuple[TunedRate, ...]:
    return tuned_rates(StudyFolder(folder), plan)


def test_a_plan_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    plan = plan_study(study())
    path = write_plan(plan, tmp_path)
    facts = json.loads(path.read_text())
    for run in facts["runs"]:
        del run["trial"], run["tuned_at"]
    del facts["trials"], facts["tuning"]
    path.write_text(json.dumps({**facts, "version": 1}))
    assert read_plan(tmp_path) == plan
    path.write_text(json.dumps({**facts, "version": 99}))
    with pytest.raises(RinscError, match="a later rinsc wrote it"):
        read_plan(tmp_path)


def test_trials_of_other_data_or_settings_rank_nothing(tmp_path: Path, train_by: Any) -> None:
    train_by(lambda run: bowl(2.4e-3)(run.config.learning_rate) + run.seed * 1e-6)
    plan, folder = planned(tmp_path, seeds=[1, 2]), StudyFolder(tmp_path)
    work(tmp_path)
    for run in plan.jobs:
        own = resolved(folder, plan, run)
        assert own is not None
        folder.run(run).model_spec.write_text(spec_to_toml(plan.variant(run.variant).spec))
        folder.run(run).config.write_text(config_to_toml(own.config))
        folder.run(run).data_record.write_text('{"text": "one"}')
    assert study_report(tmp_path).evidence.foreign == frozenset()
    trial = next(run for run in plan.trials if run.variant == "A^2B")
    record, settings = folder.run(trial).data_record, folder.run(trial).config
    others = {run.name for run in plan.runs if run.variant == "A^2B"}
    record.write_text('{"text": "two"}')
    report = study_report(tmp_path)
    assert report.evidence.foreign == others
    assert "it had other data than the trials of others" in "\n".join(report.notes)
    record.write_text('{"text": "one"}')
    own_settings = settings.read_text()
    settings.write_text(own_settings.replace("weight_decay = 0.1", "weight_decay = 0.2"))
    report = study_report(tmp_path)
    assert report.evidence.foreign == others
    assert "it was trained with other settings" in "\n".join(report.notes)
    settings.write_text(own_settings)
    for run in plan.trials:
        folder.run(run).data_record.write_text('{"text": "two"}')
    report = study_report(tmp_path)
    assert report.evidence.foreign == frozenset()
    assert "the learning rates were tuned on other data than the runs have" in report.notes
