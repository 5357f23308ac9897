"""What is shown while text is tokenized: plain lines, or a bar on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rinsc import progress as module
from rinsc.progress import PreparationProgress


def shown(*, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=90)
    with PreparationProgress("jsonl:a[b].jsonl", console) as progress:
        progress.waiting()
        progress.started(4_000_000)
        for _ in range(4):
            progress.advanced(1_000_000)
        progress.finished(1_234_567)
    return output.getvalue()


def test_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LINE_SECONDS", 0.0)
    lines = shown(terminal=False).splitlines()
    assert lines[0] == "jsonl:a[b].jsonl · another process is tokenizing it; waiting"
    assert lines[1:5] == [f"jsonl:a[b].jsonl · {n} MB tokenized" for n in range(1, 5)]
    assert lines[5].startswith("jsonl:a[b].jsonl · 4.0 MB tokenized in ")
    assert lines[5].endswith("· 1,234,567 tokens")
    assert len(lines) == 6


def test_few_lines_where_it_is_quick() -> None:
    assert len(shown(terminal=False).splitlines()) == 2


def test_a_bar_on_a_terminal() -> None:
    text = shown(terminal=True)
    assert "jsonl:a[b].jsonl" in text
    assert "4.0/4.0 MB" in text


def test_nothing_is_said_of_what_was_there() -> None:
    output = io.StringIO()
    with PreparationProgress("x", Console(file=output)):
        pass
    assert output.getvalue() == ""
