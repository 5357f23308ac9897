"""The metrics file: it survives a crash in the middle of a line."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.errors import DataError, OutputError
from rinsc.plots import curve
from rinsc.training.metrics import Metrics, MetricsLog, read_metrics, resume_metrics

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
    resume_metrics(path, 2, None)
    assert read_metrics(path) == [_metrics(1), _metrics(2)]


@given(st.lists(st.integers(1, 50), min_size=2, max_size=6, unique=True), st.data())
def test_a_damaged_line_costs_that_line_alone(steps: list[int], data: st.DataObject) -> None:
    """One byte, anywhere, becomes any other: the lines without it are read, and a run goes on."""
    lines = [_metrics(step, 2.5).to_json().encode() for step in steps]
    text = b"".join(line + b"\n" for line in lines)
    place = data.draw(st.integers(0, len(text) - 1))
    damaged = bytearray(text)
    damaged[place] = data.draw(st.integers(0, 255))
    hit = text[:place].count(b"\n")
    also = {hit, hit + 1} if text[place : place + 1] == b"\n" else {hit}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metrics.jsonl"
        path.write_bytes(damaged)
        whole = [_metrics(step, 2.5) for at, step in enumerate(steps) if at not in also]
        if whole:
            found = read_metrics(path)
            assert [each for each in found if each in whole] == whole
            assert len(found) <= len(steps)
        last = _metrics(99)
        resume_metrics(path, 99, last)
        assert read_metrics(path)[-1] == last


BAD = [
    *("nonsense", "3", "[]", "null", "{}", '{"step": 1}', "[" * 100_000, '{"step":' * 50_000),
    *("\x00\x1b[2J", "é" * 10, '{"step": NaN}', "9" * 5000),
    _metrics(7).to_json().replace('"step": 7', '"step": "7"'),
    _metrics(7).to_json().replace('"step": 7', '"step": 1e400'),
    _metrics(7).to_json().replace('"seconds": 0.25', '"seconds": null'),
]


@pytest.mark.parametrize("bad", BAD)
def test_no_line_keeps_a_run_from_going_on_or_from_being_drawn(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        f"{_metrics(1).to_json()}\n{bad}\n\xff\n{_metrics(3, 1.5).to_json()}\n".encode()
    )
    assert read_metrics(path) == [_metrics(1), _metrics(3, 1.5)]
    assert curve("A", read_metrics(path)).quality == (1.5,)
    path.write_text(f"{bad}\n")
    resume_metrics(path, 5, _metrics(5))
    assert read_metrics(path) == [_metrics(5)]
    resume_metrics(tmp_path / "missing.jsonl", 5, None)


def test_keys_of_a_later_version_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(_metrics(1).to_json().replace("{", '{"of_tomorrow": [1], ', 1) + "\n")
    assert read_metrics(path) == [_metrics(1)]


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
