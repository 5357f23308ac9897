"""What a person sees while a model trains."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rinsc.objectives import Part
from rinsc.progress import ShownProgress
from rinsc.training.config import TrainConfig
from rinsc.training.metrics import Metrics, TrainingProgress
from rinsc.training.result import TrainResult

RESULT = TrainResult(
    *(4, 64, 0.5, 10**12, 3.21),
    {"bits_per_byte": 2.34567, "perplexity": 24.8, "accuracy": 0.31},
    *(83.2, "whole", 1234, 56789),
)


def _metrics(step: int, bits_per_byte: float | None = None) -> Metrics:
    part: Part | None = None if bits_per_byte is None else "sample"
    figures = (3.21, 1e-3, 12345.6, 9.0, bits_per_byte)
    return Metrics(step, step * 16, step * 10**12, *figures, held_out=part)


def _run(terminal: bool, name: str = "A[2]^3B") -> str:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=100, color_system=None)
    with TrainingProgress(name, ShownProgress(console)) as progress:
        progress.started(TrainConfig(steps=4), 0)
        for step in range(1, 5):
            progress.stepped(_metrics(step, 2.5 if step == 2 else None))
        progress.finished(RESULT)
    return output.getvalue()


def test_a_pipe_gets_plain_lines_at_evaluations_and_at_the_end() -> None:
    assert _run(terminal=False).splitlines() == [
        "A[2]^3B · step 2/4 · loss 3.210 · 2.500 bits/byte (sample) · 12,346 tokens/s",
        "A[2]^3B · done · 2.3457 bits per byte on the whole held-out text (1,234 windows) · 83 s",
    ]


def test_a_pipe_gets_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rinsc.progress.LINE_SECONDS", 0.0)
    assert len(_run(terminal=False).splitlines()) == 5


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rinsc.progress.QUIET_SECONDS", 0.0)
    shown = _run(terminal=True)
    for part in ("A[2]^3B", "4/4", "loss 3.210", "2.500 bits/byte (sample)", "12,346 tokens/s"):
        assert part in shown
