"""``rinsc eval`` as a user types it: tables, files, the verdict, and one clear error each."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rinsc
from rinsc.backends.torch import load_weights, to_torch
from rinsc.errors import UsageError
from rinsc.evaluation.reading_runs import read_text
from rinsc.objectives.next_token import evaluate
from rinsc.progress import SilentProgress
from rinsc.spec import model_spec
from rinsc.training import finished, opening
from tests.cli.command_line import run_cli
from tests.cli.conftest import SIGNATURE, TINY


@pytest.fixture(scope="module")
def plain(corpus: str, run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline on the same text, trained for longer."""
    folder = tmp_path_factory.mktemp("baselines") / "ab"
    done = run_cli(
        *("train", "AB", *TINY, "--data", corpus, "-o", str(folder), "--steps", "9"),
        *("--batch", "2", "--device", "cpu", "--tokenizer", str(run / "tokenizer.json")),
    )
    assert done.status == 0, done.err
    return folder


@pytest.fixture
def copied(run: Path, tmp_path: Path) -> Path:
    """A run that a test may break."""
    return Path(shutil.copytree(run, tmp_path / "copied"))


def test_a_table_a_picture_and_json(run: Path) -> None:
    done = run_cli("eval", str(run), "--rounds", "1..4", "--device", "cpu")
    assert done.status == 0, done.err
    lines = done.out.splitlines()
    assert lines[0].split() == ["rounds", "FLOP/token", "bits/byte", "perplexity", "accuracy"]
    assert [line.split()[0] for line in lines[2:6]] == ["1", "2", "3", "4"]
    assert ["(trained)" in line for line in lines[2:6]] == [False, True, False, False]
    assert "<svg" in (run / "eval.svg").read_text()
    facts = json.loads((run / "eval.json").read_text())
    assert [row["rounds"] for row in facts["rows"]] == [{"A": count} for count in range(1, 5)]
    noted = json.loads((run / "result.json").read_text())
    for key in ("bits_per_byte", "perplexity", "accuracy"):
        assert facts["rows"][1][key] == pytest.approx(noted[key], rel=1e-6)


def test_json_on_standard_output_is_that_of_the_file(run: Path, tmp_path: Path) -> None:
    picture = tmp_path / "some.png"
    done = run_cli("eval", str(run), "--windows", "3", "-o", str(picture), "--json")
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts == json.loads((tmp_path / "some.json").read_text())
    assert [row["rounds"] for row in facts["rows"]] == [{"A": 1}, {"A": 2}]
    assert facts["windows"] == 3
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_rounds_of_one_repeat(run: Path, tmp_path: Path) -> None:
    where = ("-o", str(tmp_path / "e.svg"), "--windows", "2", "--json")
    one = run_cli("eval", str(run), "--rounds", "A=1..2", *where)
    all_of_them = run_cli("eval", str(run), "--rounds", "1,2", *where)
    assert json.loads(one.out) == json.loads(all_of_them.out)


def test_another_text(run: Path, tmp_path: Path) -> None:
    text = tmp_path / "other.txt"
    text.write_text("\n".join(f"It is {hour} o'clock and all is well." for hour in range(500)))
    done = run_cli("eval", str(run), "--data", f"text:{text}", "-o", str(tmp_path / "e.svg"))
    assert done.status == 0, done.err
    assert f"held-out text of text:{text}" in done.out


def test_a_baseline(run: Path, plain: Path, tmp_path: Path) -> None:
    where = ("--baseline", str(plain), "-o", str(tmp_path / "e.svg"))
    done = run_cli("eval", str(run), *where)
    assert done.status == 0, done.err
    facts = json.loads((tmp_path / "e.json").read_text())
    verdict = facts["verdict"]
    assert verdict["text"] in done.out
    assert [each["equal"] for each in verdict["comparisons"]] == [
        *("training FLOPs", "parameters", "inference FLOPs"),
    ]
    noted = [json.loads((each / "result.json").read_text()) for each in (run, plain)]
    assert verdict["comparisons"][0]["run"] == noted[0]["training_flops"]
    assert verdict["comparisons"][0]["baseline"] == noted[1]["training_flops"]
    assert not verdict["equal_training_flops"]
    assert "not at equal training FLOPs" in verdict["text"]
    assert facts["baseline"]["bits_per_byte"] == pytest.approx(noted[1]["bits_per_byte"], rel=1e-6)
    assert "arXiv 2502.07503" in done.out


def test_a_baseline_has_no_rounds(plain: Path, tmp_path: Path) -> None:
    done = run_cli("eval", str(plain), "-o", str(tmp_path / "e.svg"))
    assert done.status == 0, done.err
    assert done.out.splitlines()[2].split()[0] == "-"
    done = run_cli("eval", str(plain), "--baseline", str(plain), "-o", str(tmp_path / "e.svg"))
    assert (done.status, done.err.splitlines()[0][:16]) == (2, "error[no-repeat]")


@pytest.mark.parametrize(
    ("given", "status", "code"),
    [
        (("--rounds", "0"), 2, "bad-rounds"),
        (("--rounds", "4..1"), 2, "bad-rounds"),
        (("--rounds", "many"), 2, "bad-rounds"),
        (("--rounds", "B=1"), 2, "unknown-repeat"),
        (("--rounds", "1..99"), 2, "bad-rounds"),
        (("--data", "nothing"), 1, "unknown-corpus"),
        (("--baseline", "no/such/run"), 1, "not-a-run"),
        (("--limit", "3"), 2, "usage"),
        (("--windows", "0"), 2, "usage"),
        (("--tasks", "any", "--limit", "0"), 2, "usage"),
        (("--include", "tasks"), 2, "usage"),
        (("-o", "eval.pdf"), 2, "usage"),
        (("-o", "no/such/folder/eval.svg"), 1, "cannot-write"),
    ],
)
def test_bad_options(
    run: Path,
    given: tuple[str, ...],
    status: int,
    code: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {file: file.stat().st_mtime_ns for file in run.iterdir()}
    done = run_cli("eval", str(run), *given)
    assert (done.status, done.out) == (status, "")
    assert done.err.startswith(f"error[{code}]"), done.err
    assert done.err.count("error[") == 1
    assert "hint: " in done.err
    assert {file: file.stat().st_mtime_ns for file in run.iterdir()} == before
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["result.svg", "tokenizer.png", "data.svg"])
def test_a_picture_that_would_write_over_the_run(copied: Path, name: str) -> None:
    before = {file: file.read_bytes() for file in copied.iterdir() if file.is_file()}
    done = run_cli("eval", str(copied), "-o", str(copied / name))
    assert (done.status, done.err.partition("]")[0]) == (2, "error[usage")
    assert {file: file.read_bytes() for file in copied.iterdir() if file.is_file()} == before


def refused(*given: str) -> str:
    """The code of the one error."""
    done = run_cli("eval", *given)
    assert done.status == 1, done.err
    assert done.err.count("error[") == 1
    return done.err.partition("error[")[2].partition("]")[0]


def test_what_is_no_run(tmp_path: Path) -> None:
    assert refused(str(tmp_path)) == "not-a-run"
    assert refused(SIGNATURE) == "not-a-run"


@pytest.mark.parametrize("missing", ["result.json", "model.safetensors"])
def test_a_run_that_is_not_finished_without_a_checkpoint(copied: Path, missing: str) -> None:
    (copied / missing).unlink()
    shutil.rmtree(copied / "checkpoint-4")
    assert refused(str(copied)) == "unfinished-run"


def test_a_checkpoint_and_an_unfinished_run(corpus: str, tmp_path: Path) -> None:
    """Of a run to step 6 the checkpoint of step 4 is what a run of 4 steps would be."""
    folder = tmp_path / "run"
    command = ("train", SIGNATURE, *TINY, "--data", corpus, "-o", str(folder), "--steps", "6")
    more = ("--batch", "2", "--device", "cpu", "--checkpoint-every", "4")
    assert run_cli(*command, *more).status == 0
    at_four = run_cli("eval", str(folder / "checkpoint-4"), "--json")
    assert at_four.status == 0, at_four.err
    facts = json.loads(at_four.out)
    assert (facts["steps"], facts["checkpoint"]) == (4, "checkpoint-4, after 4 of 6 steps")
    assert (folder / "eval-checkpoint-4.json").exists()
    model = to_torch(model_spec(folder / "model.toml"))
    load_weights(model, folder / "checkpoint-4" / "model.safetensors")
    run = opening.finished_run(folder)
    text = read_text(run, None, None, SilentProgress())
    expected = evaluate(model, text.held_out).bits_per_byte
    assert facts["rows"][-1]["bits_per_byte"] == pytest.approx(expected, rel=1e-6)
    whole = json.loads(run_cli("eval", str(folder), "--json").out)
    assert whole["checkpoint"] is None
    assert whole["rows"][-1]["bits_per_byte"] != facts["rows"][-1]["bits_per_byte"]
    assert (folder / "checkpoint-4" / "checksums.json").exists()
    assert not list((folder / "checkpoint-4").glob("eval*"))
    # A run that is not finished: its latest whole checkpoint, which is said.
    (folder / "result.json").unlink()
    (folder / "checkpoint-6" / "optimizer.pt").write_bytes(b"torn")
    unfinished = run_cli("eval", str(folder))
    assert unfinished.status == 0, unfinished.err
    said = "weights: checkpoint-4 of a run that is not finished, after 4 of 6 steps"
    assert said in unfinished.out
    assert refused(str(folder / "checkpoint-6")) == "damaged-checkpoint"
    assert refused(str(folder / "checkpoint-5")) == "not-a-run"
    assert run_cli(*command, *more).status == 0
    assert run_cli(*command, *more[:-1], "5", "--overwrite").status == 0
    assert not list(folder.glob("eval-checkpoint*"))


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"steps": 0, "training_flops": 5}'])
def test_a_damaged_result(copied: Path, content: str) -> None:
    (copied / "result.json").write_text(content)
    assert refused(str(copied)) in {"cannot-read", "bad-result"}


def test_settings_that_are_not_those_of_the_model(copied: Path) -> None:
    (copied / "train.toml").write_text("sequence_length = 100")
    assert refused(str(copied)) == "beyond-context"


def test_a_text_that_changed(copied: Path, tmp_path: Path) -> None:
    record = json.loads((copied / "data.json").read_text())
    record["corpus"]["held_out"]["sha256"] = 64 * "0"
    (copied / "data.json").write_text(json.dumps(record))
    assert refused(str(copied), "-o", str(tmp_path / "e.svg")) == "other-text"


def test_a_tokenizer_that_changed(copied: Path, tmp_path: Path) -> None:
    words = json.loads((copied / "tokenizer.json").read_text())
    words["model"]["merges"] = words["model"]["merges"][::-1]
    (copied / "tokenizer.json").write_text(json.dumps(words))
    assert refused(str(copied), "-o", str(tmp_path / "e.svg")) == "other-tokenizer"


def test_a_baseline_of_another_text(run: Path, copied: Path, tmp_path: Path) -> None:
    record = json.loads((copied / "data.json").read_text())
    record["corpus"]["held_out"]["sha256"] = 64 * "0"
    (copied / "data.json").write_text(json.dumps(record))
    where = ("-o", str(tmp_path / "e.svg"))
    assert refused(str(run), "--baseline", str(copied), *where) == "other-text"


def test_windows_of_runs_that_read_differently(run: Path, copied: Path, tmp_path: Path) -> None:
    settings = copied / "train.toml"
    (copied / "checksums.json").unlink()  # as who changes a run on purpose has to
    settings.write_text(settings.read_text().replace("sequence_length = 16", "sequence_length = 9"))
    given = ("--baseline", str(copied), "-o", str(tmp_path / "e.svg"))
    done = run_cli("eval", str(run), *given, "--windows", "3")
    assert (done.status, done.err.partition("]")[0]) == (2, "error[usage")
    assert run_cli("eval", str(run), *given).status == 0


def test_without_the_harness(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    done = run_cli("eval", str(run), "--tasks", "any")
    assert done.status == 1
    assert "pip install 'rinsc[eval]'" in done.err


def test_nothing_is_evaluated_before_the_place_is_known(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(finished, "load_weights", fail)
    assert refused(str(run), "-o", "no/such/folder/eval.svg") == "cannot-write"


def test_a_verdict_needs_more_than_eight_windows(run: Path, plain: Path, tmp_path: Path) -> None:
    given = ("--baseline", str(plain), "-o", str(tmp_path / "few.svg"), "--device", "cpu")
    done = run_cli("eval", str(run), *given, "--windows", "8")
    assert done.status == 0, done.err
    verdict = json.loads((tmp_path / "few.json").read_text())["verdict"]
    assert (verdict["outcome"], verdict["regret"]) == ("undecided", None)
    assert verdict["undecided_because"]
    assert verdict["noise"]["missing"] == ["seeds"]
    assert "undecided: " in done.out
    assert "no regret:" not in done.out
    assert "seeds" in done.out


def test_a_run_against_itself_is_undecided(run: Path, tmp_path: Path) -> None:
    given = ("--baseline", str(run), "-o", str(tmp_path / "itself.svg"), "--device", "cpu")
    done = run_cli("eval", str(run), *given)
    assert done.status == 0, done.err
    assert "undecided: the run and its baseline are the same model" in done.out


@pytest.mark.parametrize(
    "given", [("--margin", "0.1"), ("--margin", "-1", "--baseline", "x"), ("--margin", "nan")]
)
def test_a_margin_that_means_nothing(run: Path, given: tuple[str, ...]) -> None:
    done = run_cli("eval", str(run), *given)
    assert done.status == 2
    assert "--margin" in done.err
    assert "hint: " in done.err


def test_the_library_reads_rounds_in_every_way(run: Path) -> None:
    def rows(rounds: Any) -> list[Any]:
        settings: dict[str, Any] = {"windows": 1, "device": "cpu", "progress": SilentProgress()}
        report = rinsc.evaluate(run, rounds=rounds, **settings)
        return [(row.rounds, row.facts()) for row in report.rows]

    expected = rows(2)
    ways: tuple[Any, ...] = (np.int64(2), "2", "A=2", {"A": 2}, [2], ("A=2",))
    for way in ways:
        assert rows(way) == expected, way
    assert rows("A=1..2") == rows([1, 2]) == rows((1, "2")) == [*rows(1), *expected]
    wrong: tuple[Any, ...] = (0, "0", "A=0", 1.5, "many", {"A": 0}, [2, 0], object())
    for way in wrong:
        with pytest.raises(UsageError) as caught:
            rows(way)
        assert caught.value.code == "bad-rounds", way


@pytest.mark.parametrize("more", [("--zero-shot", "emoji-groups"), ("--retrieval",)])
def test_a_language_model_has_no_pictures(run: Path, more: Sequence[str]) -> None:
    done = run_cli("eval", str(run), *more)
    assert done.status == 2
    assert done.err.count("error[") == done.err.count("error[no-pairing]: --") == 1
    assert "this run learned next_token" in done.err
