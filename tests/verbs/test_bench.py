"""`rinsc.bench`: the rows of `rinsc bench`, from Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import rinsc
from rinsc.progress import SilentProgress
from tests.cli.command_line import run_cli
from tests.cli.conftest import corpus, run
from tests.verbs.test_export import Cells

__all__ = ["corpus", "run"]  # fixtures


@pytest.fixture
def model(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("rinsc.backends.onnx.run.benchmark.GENERATIONS", 2)
    form = rinsc.OnnxForm("dynamic", cache=True)
    rinsc.export(run, tmp_path / "m", form, held_out=True, progress=SilentProgress())
    return tmp_path / "m"


def test_rows_by_rounds(model: Path, tmp_path: Path) -> None:
    notes = SilentProgress()
    report = rinsc.bench(
        model, rounds=[3, 1], prompt_tokens=6, output=tmp_path / "b.svg", progress=notes
    )
    assert isinstance(report, rinsc.BenchReport)
    assert [row.rounds for row in report.rows] == [{"A": 1}, {"A": 3}]
    one, three = report.rows
    assert three.cost.matmul_flops > one.cost.matmul_flops
    assert one.bits_per_byte != three.bits_per_byte
    cells = Cells(report._repr_html_()).cells
    assert cells[: len(report.table[0])] == report.table[0]
    assert f"{one.bits_per_byte:.4f}" in cells
    assert repr(report) == "<BenchReport of A^2B: 2 rows>"
    assert "<svg" in (tmp_path / "b.svg").read_text()
    assert notes.notes == ["repeat 'A' runs 3 rounds and was trained at 2 at most"]


def test_what_cannot_change_is_as_in_the_command(model: Path) -> None:
    words = ("--rounds", "2", "--prompt-tokens", "4", "--new-tokens", "3", "--threads", "1")
    done = run_cli("bench", str(model), *words)
    assert done.status == 0, done.err
    report = rinsc.bench(model, rounds=2, prompt_tokens=4, new_tokens=3, threads=1)
    assert isinstance(report, rinsc.BenchReport)
    assert report.conditions in done.out
    assert f"{report.rows[0].bits_per_byte:.4f}" in done.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"threads": 0}, "threads must be from 1"),
        ({"prompt_tokens": 0}, "prompt_tokens must be at least 1"),
        ({"rounds": 0}, "from 1 to 1024"),
        ({"output": "bench.pdf"}, "written as .png or .svg"),
        ({"text": "nowhere.txt"}, "name a text file with text"),
    ],
)
def test_mistakes_are_spelled_as_in_python(model: Path, more: Any, message: str) -> None:
    with pytest.raises(rinsc.RinscError) as caught:
        rinsc.bench(model, **more)
    assert message in str(caught.value)
    assert "--" not in str(caught.value)


_DIMENSIONS: Any = {"preset": "tiny", "kind": "vit", "vocab_size": 10, "context": 9}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("pictures") / "model.onnx"
    spec = rinsc.model_spec("A^2B", **_DIMENSIONS)
    rinsc.to_onnx(rinsc.to_torch(spec), rounds="dynamic").save(file)
    return file


def test_pictures_per_second(classifier: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times add up, whatever they are; FLOPs are those that PyTorch counts."""
    monkeypatch.setattr("rinsc.verbs.bench_pictures.PASSES", 4)
    report = rinsc.bench(classifier, rounds="1..2", batch=3, threads=1)
    assert isinstance(report, rinsc.PicturesReport)
    assert [row.rounds for row in report.rows] == [{"A": 1}, {"A": 2}]
    module = rinsc.to_torch(rinsc.model_spec(report.signature, **_DIMENSIONS))
    for row in report.rows:
        assert row.pictures_per_second == pytest.approx(3 / (row.pass_ms / 1e3))
        assert row.passes == 4
        assert row.pass_ms_p10 <= row.pass_ms
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            module(torch.zeros(1, 9, 768), rounds=row.rounds)
        assert row.flops_per_picture == counter.get_total_flops()
    done = run_cli("bench", str(classifier), "--batch", "3", "--rounds", "2", "--threads", "1")
    assert done.status == 0
    assert "pictures/s" in done.out
    assert "3 pictures a pass" in done.out


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt_tokens": 3, "text": "t.txt"}, "prompt_tokens and text are about text"),
        ({"output": "b.svg"}, "output is about text"),
        ({"batch": 0}, "batch must be from 1"),
    ],
)
def test_pictures_are_no_text(classifier: Path, settings: Any, message: str) -> None:
    with pytest.raises(rinsc.RinscError, match=message):
        rinsc.bench(classifier, **settings)


def test_text_has_no_batch_of_pictures(model: Path) -> None:
    with pytest.raises(rinsc.RinscError, match="batch is about pictures"):
        rinsc.bench(model, batch=2)
