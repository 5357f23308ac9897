"""The page on evaluation is true: its commands and its example run."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from pathlib import Path

import pytest

from rinsc.data.corpora import load_corpus
from rinsc.evaluation.verdict import CONFIDENCE, RESAMPLES, TOLERANCE
from tests.cli.command_line import run_cli
from tests.train.tasks import Question, write_task

PAGE = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")

pytest.importorskip("lm_eval")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    Path("corpus").mkdir()
    plays = load_corpus("plays").train
    for place, play in enumerate(plays[:11]):
        Path("corpus", f"{place}.txt").write_text(play.text[:9000], encoding="utf-8")
    lines = [line for line in plays[17].text.splitlines() if 12 < len(line) < 30]
    choices = ["\n" + line for line in lines[1:5]]
    write_task(Path("tasks"), "next_line", [Question(lines[0], choices, 0)] * 23)
    commands = re.findall(r"^\$ rinsc (.+)$", PAGE, re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        small = ("--batch", "2", "--seq", "32") if command.startswith("train") else ()
        done = run_cli(*shlex.split(command), *small)
        assert done.status == 0, done.err
    assert Path("a3b.png").exists()
    facts = json.loads(Path("runs/a3b/eval.json").read_text())
    assert facts["rows"][1]["tasks"][0]["task"] == "next_line"
    assert json.loads(Path("a3b.json").read_text())["verdict"]["equal_training_flops"]
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(example, "evaluation.md", "exec"), {})
    assert [line.split()[0] for line in output.getvalue().splitlines()] == ["1", "2", "3"]


def test_the_numbers_are_the_code() -> None:
    assert f"{RESAMPLES} resamples" in PAGE
    assert f"{CONFIDENCE:.0%}".replace("%", " % interval") in PAGE
    assert f"to within {TOLERANCE:.0%}".replace("%", " %") in PAGE
