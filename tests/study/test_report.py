"""Reports of real runs: both noises, other rounds, and folders in which something is amiss."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path

import pytest

import rinsc
from rinsc.objectives import Pieces
from rinsc.study.folder import StudyFolder, read_plan, write_plan
from rinsc.study.page import page, runs_csv
from rinsc.study.plan import plan_study
from rinsc.study.report import study_report
from rinsc.study.rounds import SAMPLE, own_sample
from rinsc.study.working import work
from rinsc.training.run_folder import RunFolder, read_pieces
from tests.cli.command_line import run_cli
from tests.study.test_plan import study
from tests.study.test_study import planned

DRAWN = "A^2{skip=0.5, adapter=linear}B"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two variants beside the baseline, with two seeds, all of them finished."""
    folder = planned(tmp_path_factory.mktemp("report") / "study", variants=[DRAWN, "A^2B"])
    assert work(folder) == 6
    return folder


@pytest.fixture
def copied(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "study"))


def folder_of(study: Path, variant: str, seed: int = 1) -> Path:
    (run,) = [r for r in read_plan(study).runs if (r.variant, r.seed) == (variant, seed)]
    return study / "runs" / run.name


def test_the_noise_of_the_text_is_of_the_windows_of_the_runs(whole: Path) -> None:
    report = study_report(whole)
    (standing,) = report.rankings.values()
    assert set(standing.text) == {DRAWN, "A^2B"}
    assert report.evidence.versions[0][0]["rinsc"] == rinsc.__version__
    assert len(report.evidence.curves) == 6
    for variant, interval in standing.text.items():
        (item,) = [each for each in standing.ranks if each.variant == variant]
        pieces = read_pieces(RunFolder(folder_of(whole, variant)))
        assert pieces is not None
        assert interval.windows == len(pieces.totals)
        assert (interval.low + interval.high) / 2 == pytest.approx(item.gap, abs=1e-6)


def test_other_rounds_are_measured_once_as_eval_measures_them(copied: Path) -> None:
    report = study_report(copied)
    assert report.regrets == {}
    assert any("measure_study_rounds measures them" in note for note in report.notes)
    status, _, err = run_cli("study", "report", str(copied), "--rounds", "--json")
    assert status == 0, err
    measured = sorted((copied / "runs").glob("*.at-*.npy"))
    assert {path.suffixes[0] for path in measured} == {".at-1", ".at-3"}
    assert len(measured) == 2 * 4
    stamps = [path.stat().st_mtime_ns for path in measured]
    measured[0].write_bytes(measured[0].read_bytes()[:-2])  # is measured again
    assert any("damaged" in note for note in study_report(copied).notes)
    assert run_cli("study", "report", str(copied), "--rounds").status == 0
    assert [path.stat().st_mtime_ns for path in measured][1:] == stamps[1:]
    report = study_report(copied)
    run = folder_of(copied, DRAWN)
    for rounds in (1, 2, 3):
        (row,) = rinsc.evaluate(run, rounds=rounds, windows=SAMPLE).rows
        expected = row.quality.figures["bits_per_byte"]
        (found,) = (
            each.loss
            for each in report.rounds
            if each.run.name == run.name and each.rounds == rounds
        )
        assert found == pytest.approx(expected, rel=1e-6)
    (standing,) = report.regrets.values()
    assert {item.variant for item in standing.ranks} == {"AB", DRAWN}
    (baseline,) = [item.loss for item in standing.ranks if item.variant == "AB"]
    plan, study = read_plan(copied), StudyFolder(copied)
    samples = [own_sample(study, run) for run in plan.runs if run.variant == "AB"]
    assert baseline == pytest.approx(
        sum(each.figure for each in samples if isinstance(each, Pieces)) / 2
    )
    assert {row.rounds for row in report.by_rounds()["A^2B", "4e8"]} == {1, 2, 3}


def test_runs_that_are_not_of_the_plan_or_its_data_are_left_out(copied: Path) -> None:
    other, changed = folder_of(copied, "A^2B"), folder_of(copied, "A^2B", 2)
    shutil.copytree(other, other.with_name("0" * 16))
    shutil.copy(folder_of(copied, "AB") / "model.toml", other / "model.toml")
    record = json.loads((changed / "data.json").read_text())
    record["corpus"]["held_out"]["sha256"] = "0" * 64
    (changed / "data.json").write_text(json.dumps(record))
    report = study_report(copied)
    (standing,) = report.rankings.values()
    assert {item.variant for item in standing.ranks} == {"AB", DRAWN}
    notes = "\n".join(report.notes)
    assert "A^2B at 4e8, seed 1: left out, as it is of another model" in notes
    assert "1 run left out, with other data than the 4 others: A^2B at 4e8, seed 2" in notes
    assert "1 folder in runs not of this plan, and left out: 0000000000000000" in notes


def test_damaged_files_cost_a_line_each(copied: Path) -> None:
    lost, bare = folder_of(copied, "A^2B"), folder_of(copied, DRAWN)
    (lost / "result.json").write_text("{")
    (bare / "held_out.npy").write_bytes(b"nothing")
    (bare / "metrics.jsonl").unlink()
    (bare / "environment.json").write_text("[")
    report = study_report(copied)
    notes = "\n".join(report.notes)
    assert "A^2B at 4e8, seed 1, failed: this file of the run is not as it was written" in notes
    assert f"{DRAWN} at 4e8, seed 1: its windows are not compared" in notes
    (standing,) = report.rankings.values()
    assert {item.variant: item.runs for item in standing.ranks} == {"AB": 2, DRAWN: 2, "A^2B": 1}
    for suffix in ("html", "json", "csv"):
        assert (
            run_cli("study", "report", str(copied), "-o", str(copied / f"r.{suffix}")).status == 0
        )


def test_nothing_finished_and_one_seed_are_a_line_each(whole: Path, tmp_path: Path) -> None:
    folder = planned(tmp_path / "none")
    target = tmp_path / "none.html"
    status, out, err = run_cli("study", "report", str(folder), "-o", str(target))
    assert status == 0, err
    assert "6 of 6 runs are not finished" in out
    assert "no ranking at 4e8: the baseline 'AB' has no finished run" in out
    assert "<section" in target.read_text()
    one = planned(tmp_path / "one", variants=[DRAWN, "A^2B"], seeds=[1])
    for run in read_plan(one).runs:
        shutil.copytree(whole / "runs" / run.name, one / "runs" / run.name)
    assert "no ranking at 4e8: the runs are too few to show the noise of one" in "\n".join(
        study_report(one).notes
    )


PICTURES = {
    **{"kind": "vit", "patch_width": 4, "context": 16, "vocab_size": 10},
    **{"layers": 2, "width": 16, "heads": 2, "mlp_width": 32},
}


def test_a_study_of_accuracy_compares_what_is_missing_and_says_so(tmp_path: Path) -> None:
    """Accuracies are read from the results here; the more accurate variant must stand above."""
    values = {
        **{"variants": ["A^2B"], "data": "digits", "model": PICTURES, "budgets": ["4steps"]},
        "settings": {"objective": "classify", "batch_sequences": 8},
    }
    folder = tmp_path / "study"
    write_plan(plan_study(study(**values)), folder)
    assert work(folder) == 4
    accuracies: dict[str, list[float]] = {}
    for run in read_plan(folder).runs:
        result = json.loads((folder / "runs" / run.name / "result.json").read_text())
        accuracies.setdefault(run.variant, []).append(result["accuracy"])
    report = study_report(folder)
    (standing,) = report.rankings.values()
    ranked = [sum(accuracies[item.variant]) for item in standing.ranks]
    assert ranked == sorted(ranked, reverse=True)
    for row in report.rank_rows(standing):
        shown = dict(zip(report.rank_heads, row, strict=True))
        mean = sum(accuracies[shown["variant"]]) / 2
        assert float(shown["1 - accuracy"]) == pytest.approx(1 - mean, abs=1e-4)
        assert report.means[shown["variant"], "4steps"].loss == pytest.approx(1 - mean)
    lines = list(csv.DictReader(io.StringIO(runs_csv(report))))
    assert len(lines) == 4
    assert all(float(each["loss"]) == 1 - float(each["accuracy"]) for each in lines)
    text = page(report)
    assert "Of 1 - accuracy, lower is better" in text
    assert 'aria-label="1 - accuracy by training FLOPs"' in text


def test_one_seed_gives_means_without_intervals_and_says_why(tmp_path: Path) -> None:
    folder = planned(tmp_path / "study", variants=["A^2B"], seeds=[1])
    assert work(folder) == 2
    losses = {
        run.variant: json.loads((folder / "runs" / run.name / "result.json").read_text())[
            "bits_per_byte"
        ]
        for run in read_plan(folder).runs
    }
    report = study_report(folder)
    ((title, heads, rows),) = report.tables()
    assert "without a ranking: the runs are too few to show the noise of one" in title
    assert not any("95 %" in head for head in heads)
    best = sorted(losses, key=lambda name: losses[name])
    assert [(row[0], row[3]) for row in rows] == [(name, f"{losses[name]:.4f}") for name in best]
    text = page(report)
    assert "No ranking: the runs are too few" in text
    for name in losses:
        assert f"<td>{losses[name]:.4f}</td>" in text.split("<h2>Learning rates")[0]
