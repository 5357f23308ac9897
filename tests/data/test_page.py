"""The page on data is true: its example and its commands run, its tables are the code's."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from rinsc.data.documents import HELD_OUT_SHARE
from rinsc.data.names import DEFAULT_FIELD, HF_BYTES, KEYS
from rinsc.data.tokenizer import MAX_VOCAB, MIN_VOCAB
from tests.cli.command_line import run_cli

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")


def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(example, "data.md", "exec"), {})
    first, *arrays = output.getvalue().splitlines()
    assert first.endswith("· 300")
    numbers = [[int(n) for n in re.findall(r"-?\d+", line)] for line in "".join(arrays).split("][")]
    positions, targets = numbers
    assert len(positions) == len(targets) == 24
    assert 0 in positions[1:]
    assert [after == 0 for after in positions[1:]] == [t == -100 for t in targets[:-1]]


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RINSC_DATA", str(tmp_path))
    commands = re.findall(r"^\$ rinsc (.+)$", PAGE, re.MULTILINE)
    assert len(commands) >= 2
    for command in commands:
        done = run_cli(*shlex.split(command))
        assert done.status == 0, done.err


def test_the_tables_are_the_code() -> None:
    options = dict(re.findall(r"^\| `([a-z]+)=[^`]+` \| ([a-z, ]+) \|", PAGE, re.MULTILINE))
    assert {key: tuple(kinds.split(", ")) for key, kinds in options.items()} == {
        key: tuple(kind for kind, keys in KEYS.items() if key in keys)
        for key in ("field", "bytes", "config", "split", "revision")
    }
    assert set(re.findall(r"^\| `([a-z]+):[A-Z]+` \|", PAGE, re.MULTILINE)) == set(KEYS)
    assert f"default `{DEFAULT_FIELD}`" in PAGE
    assert f"default for hf {HF_BYTES:_}" in PAGE
    assert f"{MIN_VOCAB} to {MAX_VOCAB:,} tokens" in PAGE
    assert HELD_OUT_SHARE == 0.10
