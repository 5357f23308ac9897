"""The page on Hugging Face is true: its examples and its command run."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
from transformers import LlamaConfig

from rinsc.backends.hf.folder import FILES
from rinsc.text.tokenizer_files import TOKENIZER_FILES
from tests.cli.command_line import run_cli
from tests.sources import checkpoints

PAGE = (Path(__file__).parents[2] / "docs" / "hugging-face.md").read_text(encoding="utf-8")


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("trl")
    pytest.importorskip("sklearn")
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^\$ rinsc (.+)$", PAGE, re.MULTILINE)
    assert len(commands) == 5
    checkpoints.saved(tmp_path / "llama", LlamaConfig(**checkpoints.DIMENSIONS))
    for command in commands:
        done = run_cli(*shlex.split(command))
        assert done.status == 0, done.err
    output = io.StringIO()
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 6
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(output):
        for example in examples:
            exec(compile(example, "hugging-face.md", "exec"), names)
    assert (tmp_path / "a3b.onnx").is_file()
    assert output.getvalue().splitlines() == [
        "torch.Size([1, 7])",
        "True",
        "{'A': 4} RinscForCausalLM",
        "torch.Size([1, 10])",
        "True",
        "RinscForCausalLM",
    ]


def test_the_table_of_files_is_the_folder() -> None:
    table = PAGE.split("| File | Holds |")[1].split("\n\n")[0]
    named = re.findall(
        r"`([\w.]+\.\w+)`", "".join(line.split("|")[1] for line in table.split("\n")[2:])
    )
    assert set(named) == {*FILES, *TOKENIZER_FILES}
