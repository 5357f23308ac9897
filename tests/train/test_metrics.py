"""The metrics file: it survives a crash in the middle of a line."""

from __future__ import annotations

from pathlib import Path

import pytest

from rinsc.errors import DataError, OutputError
from rinsc.train.metrics import Metrics, MetricsLog, drop_metrics_after, read_metrics

FULL = Path("/dev/full")


def _metrics(step: int, bits_per_byte: float | None = None) -> Metrics:
    return Metrics(step, step * 64, step * 10**20, 5.5 / step, 1e-3, 99.5, 0.25, bits_per_byte)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    written = [_metrics(1), _metrics(2, 3.25)]
    for metrics in written:
        with MetricsLog(path) as log:
            log.write(metrics)
    assert read_metrics(path) == written
    with MetricsLog(path, silent=True) as log:
        log.write(_metrics(3))
    assert read_metrics(path) == written


def test_a_torn_last_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f"{_metrics(1).to_json()}\n{_metrics(2).to_json()[:20]}")
    assert read_metrics(path) == [_metrics(1)]


def test_later_metrics_are_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f"{_metrics(step).to_json()}\n" for step in (1, 2, 3, 4)) + "{torn")
    drop_metrics_after(path, 2)
    assert read_metrics(path) == [_metrics(1), _metrics(2)]


@pytest.mark.parametrize("content", ["nonsense\n", "{}\n", '{"step": 1}\n', "3\n"])
def test_another_file_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(content)
    with pytest.raises(DataError):
        read_metrics(path)
    with pytest.raises(DataError):
        read_metrics(tmp_path / "missing.jsonl")


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        MetricsLog(tmp_path / "missing" / "metrics.jsonl")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no device that is always full")
def test_a_full_disk_is_told_once() -> None:
    with pytest.raises(OutputError, match="no space left"), MetricsLog(FULL) as log:
        log.write(_metrics(1))
