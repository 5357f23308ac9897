"""What is shown while text is tokenized: plain lines, or a bar on a terminal."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from rich.console import Console

from rinsc import progress as module
from rinsc.progress import Observer, PreparationProgress, ShownProgress, SilentProgress


def shown(*, terminal: bool) -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=90)
    with PreparationProgress("jsonl:a[b].jsonl", ShownProgress(console)) as progress:
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


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)
    text = shown(terminal=True)
    assert "jsonl:a[b].jsonl" in text
    assert "4 MB tokenized" in text


def test_nothing_is_said_of_what_was_there() -> None:
    output = io.StringIO()
    with PreparationProgress("x", ShownProgress(Console(file=output))):
        pass
    assert output.getvalue() == ""


def test_a_text_of_unknown_length() -> None:
    class Kept(SilentProgress):
        """Keeps what its task is told."""

        def __init__(self) -> None:
            super().__init__()
            self.states: list[tuple[float | None, str]] = []

        @contextmanager
        def task(self, what: str) -> Iterator[Observer]:
            yield lambda done, state="": self.states.append((done, state))

    kept = Kept()
    with PreparationProgress("rows", kept) as progress:
        progress.started(None)
        progress.advanced(5_000_000)
    assert kept.states == [(None, "5 MB tokenized")]


def test_a_closed_terminal_stops_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.0)

    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError

    for terminal in (False, True):
        shown = ShownProgress(Console(file=Closed(), force_terminal=terminal))
        with shown.task("counting") as observe:
            shown.line("counted")
            observe(0.5, "half")
