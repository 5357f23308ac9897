"""Saving: one file or two, both in one step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from rinsc.backends.onnx import OnnxModel, Session, to_onnx
from rinsc.backends.onnx.write import file
from rinsc.errors import CheckpointError, LoweringError, OutputError
from tests.onnx.models import lively_model, random_ids, small_spec


@pytest.fixture(scope="module")
def exported() -> OnnxModel:
    return to_onnx(lively_model(small_spec()), "dynamic")


def test_a_saved_model_is_its_bytes(exported: OnnxModel, tmp_path: Path) -> None:
    exported.save(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == exported.to_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_large_weights_go_to_a_second_file(exported: OnnxModel, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    exported.save(path, external_data_over=1000)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert path.stat().st_size < 64 * 1024
    onnx.checker.check_model(str(path), full_check=True)
    input_ids = random_ids(small_spec(), 2, 7)
    inline = Session(exported).logits(input_ids)
    np.testing.assert_array_equal(Session(path).logits(input_ids), inline)


def test_writing_outside_leaves_the_model_whole(exported: OnnxModel, tmp_path: Path) -> None:
    before = exported.to_bytes()
    exported.save(tmp_path / "model.onnx", external_data_over=0)
    assert exported.to_bytes() == before


def test_the_threshold_counts_the_weights(exported: OnnxModel, tmp_path: Path) -> None:
    exported.save(tmp_path / "one.onnx", external_data_over=exported.weight_bytes)
    exported.save(tmp_path / "two.onnx", external_data_over=exported.weight_bytes - 1)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["one.onnx", "two.onnx", "two.onnx.data"]


def test_a_place_that_cannot_be_written(exported: OnnxModel, tmp_path: Path) -> None:
    for threshold in (0, 10**9):
        with pytest.raises(OutputError):
            exported.save(tmp_path / "missing" / "model.onnx", external_data_over=threshold)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("threshold", [0, 10**9])
def test_old_files_survive_a_failure(
    exported: OnnxModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threshold: int
) -> None:
    old = {"model.onnx": b"old graph", "model.onnx.data": b"old weights"}
    for name, data in old.items():
        (tmp_path / name).write_bytes(data)

    def full_disk(model: ir.Model) -> bytes:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file, "_serialized", full_disk)
    with pytest.raises(OutputError, match="no space left"):
        exported.save(tmp_path / "model.onnx", external_data_over=threshold)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == old


def test_bytes_beyond_the_limit_are_refused(
    exported: OnnxModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file, "PROTOBUF_LIMIT_BYTES", file.GRAPH_ALLOWANCE_BYTES + 10)
    with pytest.raises(LoweringError) as caught:
        exported.to_bytes()
    assert caught.value.code == "too-large"


def test_weights_cut_short_are_refused(exported: OnnxModel, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    exported.save(path, external_data_over=0)
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-5000])
    with pytest.raises(CheckpointError) as caught:
        Session(path)
    assert caught.value.code == "damaged-data"
