"""The README and pages beside it are true: commands run, examples print what is shown."""

from __future__ import annotations

import ast
import contextlib
import io
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import rinsc
from rinsc.cli import main
from rinsc.cost import block_params
from rinsc.graph import build_graph
from rinsc.graph.draw import FORMATS
from rinsc.spec import model_spec
from rinsc.spec.model import KEYS
from rinsc.syntax import canonical, parse

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NOTATION = (ROOT / "docs" / "notation.md").read_text(encoding="utf-8")


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def sessions(page: str) -> list[tuple[str, str]]:
    """Each command of the console blocks, and what stands below it."""
    text = "\n".join(blocks("console", page))
    return [
        (command, output)
        for command, output in re.findall(r"^\$ (.+)\n((?:(?!\$ ).*\n?)*)", text, re.MULTILINE)
    ]


@pytest.mark.parametrize(
    ("page", "commands"),
    [("README.md", 14), ("docs/notation.md", 2), ("docs/zoo.md", 5), ("docs/architecture.md", 1)],
)
def test_every_command_runs_and_prints_what_is_shown(
    page: str,
    commands: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "zoo").symlink_to(ROOT / "zoo")
    monkeypatch.chdir(tmp_path)
    found = sessions((ROOT / page).read_text(encoding="utf-8"))
    assert len(found) == commands
    for command, shown in found:
        program, *arguments = shlex.split(command)
        assert program == "rinsc"
        assert main(arguments) == 0, command
        printed = capsys.readouterr().out
        if shown.strip():
            assert printed.strip() == shown.strip()


def test_the_walk_through_the_stages_prints_what_it_shows() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    stages = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL)
    assert len(stages) == len(blocks("python", page)) == 10
    names: dict[str, Any] = {}
    for code, shown in stages:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(code, "architecture.md", "exec"), names)
        assert output.getvalue() == shown


def test_the_python_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (example,) = blocks("python")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(example, "README.md", "exec"), {})
    lines = output.getvalue().splitlines()
    assert lines[1].endswith("True")
    assert lines[2] == "(1, 8, 512)"
    assert (tmp_path / "model.onnx").exists()


def test_the_toml_example_is_a_spec(tmp_path: Path) -> None:
    (example,) = blocks("toml", NOTATION)
    path = tmp_path / "example.toml"
    path.write_text(example)
    spec = model_spec(path)
    assert (spec.text, spec.width, spec.heads) == ("A^3B", 640, 10)
    assert set(KEYS) - {"settings"} <= set(re.findall(r"\w+", example))


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_every_path_exists(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    rows = "\n".join(re.findall(r"^\|.*\|$", text, re.MULTILINE))
    named = re.findall(r"`((?:rinsc|grammar|zoo|tests|docs)/[\w./-]*)`", rows)
    assert len(named) > 12
    for path in named:
        assert (ROOT / path).exists(), path


def test_the_notation_table_is_the_notation() -> None:
    table = NOTATION.split("\n\n")[2]
    cells = re.findall(r"^\| (`.+?`) \|", table, re.MULTILINE)
    assert len(cells) >= 7
    for cell in cells:
        spellings = [parse(text) for text in re.findall(r"`([^`]+)`", cell)]
        assert len({canonical(tree) for tree in spellings}) == 1


def test_the_picture_is_what_rinsc_draws() -> None:
    graph = build_graph(model_spec("(A^3)B", preset="small"))
    drawn = FORMATS[".svg"](graph, block_params(graph))
    assert (ROOT / "docs" / "a3b.svg").read_text(encoding="utf-8") == drawn


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_are_targets(target: str) -> None:
    assert f"make {target}" in README
    assert re.search(rf"^{target}: setup", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_the_examples_of_the_page_on_onnx_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "onnx.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(examples) == 4
    sizes = {"batch_sequences": 4, "sequence_length": 32}
    rinsc.train("(A^3)B", data="plays", budget="2steps", output="runs/first", settings=sizes)
    names: dict[str, Any] = {"rinsc": rinsc}
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        for example in examples:
            exec(compile(example, "onnx.md", "exec"), names)
    first, second, same = output.getvalue().splitlines()
    assert same == "True"
    assert first.endswith(" True")
    assert [len(row) for row in ast.literal_eval(second)] == [8, 8]
