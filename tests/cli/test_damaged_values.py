"""Files of a run in which one value is another: a command says so in one error, or does its work.

The value is of another type, missing, or nests a long way. The files are those that the run's own
commands read: JSON, JSON lines and TOML.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rinsc.storage.files import file_digest
from tests.cli.command_line import run_cli
from tests.cli.conftest import SIGNATURE, TINY

DEEP = "DEEP"  # in a text in place of what is written as [[[[…
GONE = "GONE"
VALUES: list[Any] = [
    *(5, -1, 0, 10**30, 10**400, 1.5, float("inf"), True, False, None, "", "x", "A^2", "../x"),
    *("\x1b[2J", [], [1], ["x"], [[]], {}, {"a": 1}, {"a": {"b": []}}, GONE, DEEP, DEEP),
]
FILES = [
    *("config.json", "data.json", "result.json", "tokenizer.json", "tokenizer_config.json"),
    *("metrics.jsonl", "model.toml", "train.toml", "environment.json"),
    *("checkpoint-4/config.json", "checkpoint-4/trainer_state.json"),
]


def paths(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the values of a document stand, of long lists the first ones."""
    yield at
    if isinstance(value, list):
        value = dict(enumerate(value[:3]))
    for key, item in value.items() if isinstance(value, dict) else ():
        yield from paths(item, (*at, key))


def replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    if len(at) == 1 and new == GONE:
        del copy[at[0]]
    else:
        copy[at[0]] = replaced(copy[at[0]], at[1:], new)
    return copy


def as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, float):
        return "inf" if value == float("inf") else repr(value)
    return '"none"' if value is None else json.dumps(value)


def damage(path: Path, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
    """Replace one value of the file."""
    text = path.read_text(encoding="utf-8")
    first, newline, rest = text.partition("\n") if path.suffix == ".jsonl" else (text, "", "")
    value = tomllib.loads(text) if path.suffix == ".toml" else json.loads(first)
    new = replaced(value, draw(st.sampled_from(list(paths(value)))), draw(st.sampled_from(VALUES)))
    if path.suffix == ".toml" and isinstance(new, dict):
        made = "".join(f"{json.dumps(key)} = {as_toml(item)}\n" for key, item in new.items())
    else:
        made = as_toml(new) if path.suffix == ".toml" else json.dumps(new)
    deep = draw(st.sampled_from(["[" * 100_000, "[" * 80 + "]" * 80]))
    path.write_text(made.replace(f'"{DEEP}"', deep) + newline + rest, encoding="utf-8")


def commands(folder: Path, corpus: str, out: Path) -> list[tuple[str, ...]]:
    run = str(folder)
    training = (*TINY, "--data", corpus, "--steps", "4", "--batch", "2", "--device", "cpu")
    return [
        ("check", run),
        ("cost", run),
        ("show", run),
        ("generate", run, "--prompt", "On", "--max-new-tokens", "1"),
        ("eval", run, "--windows", "1", "-o", str(out / "e.svg")),
        ("compile", run, "--to", "hf", "-o", str(out / "hf")),
        ("compile", run, "--to", "onnx", "-o", str(out / "onnx/"), "--no-report"),
        ("train", SIGNATURE, *training, "-o", run),
        ("train", SIGNATURE, *training, "-o", str(out / "new"), "--from", run),
    ]


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_a_value_of_another_kind_is_one_error(run: Path, corpus: str, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, out = Path(name) / "run", Path(name) / "out"
        shutil.copytree(run, folder)
        for other in ("model.onnx", "model.onnx.data"):  # of other tests
            (folder / other).unlink(missing_ok=True)
        out.mkdir()
        file = data.draw(st.sampled_from(FILES))
        damage(folder / file, data.draw)
        if file.startswith("checkpoint"):  # as if it had been written so, of a run that goes on
            (folder / "result.json").unlink()
            written = folder / "checkpoint-4" / "checksums.json"
            listed = json.loads(written.read_text())
            listed |= {each: file_digest(written.parent / each) for each in listed}
            written.write_text(json.dumps(listed))
        (folder / "checksums.json").unlink(missing_ok=True)  # as if its author had damaged it
        every = commands(folder, corpus, out)
        command = every[-2] if file.startswith("checkpoint") else data.draw(st.sampled_from(every))
        done = run_cli(*command)
        assert done.status in (0, 1, 2)
        if done.status:
            lines = [line for line in done.err.splitlines() if line.startswith("error[")]
            assert lines, done.err
            assert done.err.count("  hint: ") >= len(lines) > 0
        assert "Traceback" not in done.err
        assert not {"\x1b", "\x07"} & set(done.out + done.err)


@pytest.mark.parametrize("file", ["config.json", "data.json", "result.json", "tokenizer.json"])
@pytest.mark.parametrize(
    "text", ["5", "[" * 100_000, "[]", "null", '{"spec": 5}', "", "\udc80\udc95."]
)
def test_files_that_are_no_records_are_one_error(
    run: Path, tmp_path: Path, file: str, text: str
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / "checksums.json").unlink(missing_ok=True)
    (folder / file).write_bytes(
        text.encode("utf-8", "surrogateescape")
    )  # or bytes that are no text
    for command in (
        ("eval", str(folder), "--windows", "1", "-o", str(tmp_path / "e.svg")),
        ("generate", str(folder), "--prompt", "On", "--max-new-tokens", "1"),
        ("compile", str(folder), "--to", "hf", "-o", str(tmp_path / "hf")),
        ("compile", str(folder), "--to", "onnx", "-o", str(tmp_path / "onnx") + "/"),
    ):
        done = run_cli(*command)
        assert done.status in (0, 1)
        assert (done.status == 1) == done.err.startswith("error["), done.err
