"""The page on pictures with captions is true: its example and commands run, its tables are the
code's."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from rinsc.data.names import KEYS
from rinsc.data.pairs.classes import EMOJI
from rinsc.data.pairs.decoding import FORMATS, MAX_FILE_BYTES, MAX_PIXELS
from rinsc.data.pairs.sets import picture_sets, unseen_concepts
from rinsc.data.pairs.store import MOST_BYTES, VARIABLE
from tests.cli.command_line import run_cli

PAGE = (Path(__file__).parents[2] / "docs" / "pairs.md").read_text(encoding="utf-8")


def test_the_example_and_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RINSC_DATA", str(tmp_path / "data"))
    ((example, expected),) = re.findall(
        r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL
    )
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(example, "pairs.md", "exec"), {})
    assert output.getvalue() == expected
    commands = re.findall(r"^\$ rinsc (.+)\n((?:(?!\$|```).*\n)*)", PAGE, re.MULTILINE)
    assert len(commands) == 2
    for command, printed in commands:
        done = run_cli(*shlex.split(command))
        assert done.status == 0, done.err
        assert printed in done.out
    assert run_cli("data", "prepare", "pairs:pets").status == 2
    wrong = run_cli("data", "prepare", "pairs:pets", "--image-size", "8", "--vocab-size", "300")
    assert wrong.status == 2


def test_the_tables_are_the_code() -> None:
    sets = dict(re.findall(r"^\| `(pictures/[\w-]+)` \| ([\d,]+) ", PAGE, re.MULTILINE))
    assert sets.keys() == picture_sets().keys()
    uses = dict(re.findall(r"^\| `(pictures/[\w-]+)` .*\| ([^|]+) \|$", PAGE, re.MULTILINE))
    for name, use in uses.items():
        assert (picture_sets()[name].use == "train") == (use == "training")
    assert set(re.findall(r"^\| `(emoji-\w+)` \|", PAGE, re.MULTILINE)) == EMOJI.keys()
    rows = "".join(re.findall(r"^\| `\w+=.*", PAGE, re.MULTILINE))
    assert set(re.findall(r"`(\w+)=\w+`", rows)) == set(KEYS["pairs"])
    assert f"{len(unseen_concepts())} concepts, from {unseen_concepts()[0]}" in PAGE
    assert f"more than {MAX_PIXELS / 1e6:.0f} million pixels" in PAGE
    assert f"more than {MAX_FILE_BYTES >> 20} MiB" in PAGE
    assert f"at most {MOST_BYTES / 1e9:.0f} GB; `{VARIABLE}=" in PAGE
    assert len(FORMATS) == 10
