"""The page on SigLIP is true: its commands and its Python run."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.command_line import run_cli
from tests.sources.checkpoints import siglip

PAGE = (Path(__file__).parents[2] / "docs" / "siglip.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    siglip().save_pretrained("siglip")
    commands = re.findall(r"^\$ rinsc (.+)$", PAGE, re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        done = run_cli(*shlex.split(command))
        assert done.status == 0, done.err
    output, names = io.StringIO(), dict[str, object]()
    with contextlib.redirect_stdout(output):
        for example in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(example, "siglip.md", "exec"), names)
    assert output.getvalue().splitlines() == ["SiglipModel True False", "True"]
    files = set(re.findall(r"^\| `onnx/(\S+)` \|", PAGE, re.MULTILINE))
    assert {path.name for path in Path("web/onnx").iterdir()} == files
