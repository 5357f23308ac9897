"""Loading: every file that is no whole model of ours is one clear error."""

from __future__ import annotations

import shutil
import struct
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.__about__ import __version__
from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.onnx.outline import Outline, read_outline
from rinsc.errors import CheckpointError, RinscError
from tests.onnx.models import lively_model, random_ids, small_spec, torch_logits

SPEC = small_spec()
MODULE = lively_model(SPEC)
MODEL = to_onnx(MODULE, "dynamic")
WHOLE = MODEL.to_bytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder: the graph, and its weights beside it."""
    MODEL.save(tmp_path / "model.onnx", external_data_over=0)
    assert (tmp_path / "model.onnx.data").stat().st_size > 100_000
    return tmp_path


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for files that hypothesis makes anew each time."""
    folder = tmp_path_factory.mktemp("workshop")
    MODEL.save(folder / "model.onnx", external_data_over=0)
    return folder


def problem(path: Path | str) -> RinscError:
    """The error of loading ``path``; it says where and what to do."""
    with pytest.raises(CheckpointError) as caught:
        Session(path)
    assert all(each.place and each.hint for each in caught.value.problems)
    return caught.value


@pytest.mark.parametrize("name", ["", "model.onnx"])
def test_a_folder_is_its_model(folder: Path, name: str) -> None:
    session = Session(folder / name, threads=1)
    assert session.spec == SPEC
    ids = random_ids(SPEC, 1, 5)
    assert abs(session.logits(ids) - torch_logits(MODULE, ids)).max() < 1e-3
    assert Session(str(folder / name)).rounds == session.rounds


def test_a_folder_moves_as_a_whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    moved = shutil.copytree(folder, tmp_path_factory.mktemp("else") / "here")
    shutil.rmtree(folder)
    assert Session(moved).spec == SPEC


@pytest.mark.parametrize("name", ["none.onnx", "folder/none.onnx", "a" * 300, "\0", "ü\udce9.onnx"])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    error = problem(tmp_path / name)
    assert error.code in ("no-such-file", "cannot-read")


def test_a_folder_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "other.onnx").write_bytes(WHOLE)
    error = problem(tmp_path)
    assert error.code == "no-such-file"
    assert "model.onnx" in error.message


@pytest.mark.skipif(sys.platform == "win32", reason="names are text there")
def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "caf\udce9.onnx"
    path.write_bytes(WHOLE)
    error = problem(path)
    assert error.code == "cannot-read"
    assert "not text" in error.message


@pytest.mark.parametrize(
    ("data", "code", "says"),
    [
        (b"", "damaged-model", "empty"),
        (b"hello\nworld\t\n", "foreign-model", "text"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12", "foreign-model", "text"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "foreign-model", "PNG"),
        (struct.pack("<Q", 2) + b"{}", "foreign-model", "safetensors"),
        (b"PK\x03\x04" + bytes(40), "foreign-model", "PyTorch"),
        (b"GGUF\3\0\0\0", "foreign-model", "GGUF"),
        (bytes(1000), "foreign-model", "no ONNX model"),
        (b"\xff" * 1000, "foreign-model", "no ONNX model"),
        (b"\x08", "damaged-model", "cut short"),
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, data: bytes, code: str, says: str) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(data)
    error = problem(tmp_path)
    assert error.code == code
    assert says in error.message


@given(cut=st.integers(1, len(WHOLE) - 1))
def test_a_model_that_is_cut_short(workshop: Path, cut: int) -> None:
    path = workshop / "cut.onnx"
    path.write_bytes(WHOLE[:cut])
    # Cut between two fields it is a whole protobuf, of which the end with our words is missing.
    assert problem(path).code in ("damaged-model", "foreign-model", "operator-not-supported")


@given(data=st.binary(max_size=200))
def test_any_bytes(workshop: Path, data: bytes) -> None:
    path = workshop / "bytes.onnx"
    path.write_bytes(data)
    assert problem(path).code in ("damaged-model", "foreign-model")


@given(place=st.integers(0, 20_000), byte=st.integers(0, 255))
def test_the_outline_of_a_damaged_model_is_read_or_refused(place: int, byte: int) -> None:
    data = bytearray(WHOLE)
    data[place] = byte
    with suppress(ValueError):
        assert isinstance(read_outline(memoryview(data)), Outline)


def test_the_outline_is_what_onnx_reads(workshop: Path) -> None:
    for data in (WHOLE, (workshop / "model.onnx").read_bytes()):
        proto, outline = onnx.load_from_string(data), read_outline(memoryview(data))
        assert outline.opsets == {opset.domain: opset.version for opset in proto.opset_import}
        assert outline.metadata == {prop.key: prop.value for prop in proto.metadata_props}
        assert outline.data_types == {tensor.data_type for tensor in proto.graph.initializer}
    (name,) = outline.external_bytes
    assert outline.external_bytes[name] == (workshop / name).stat().st_size


def test_missing_weights(folder: Path) -> None:
    (folder / "model.onnx.data").unlink()
    error = problem(folder)
    assert error.code == "missing-data"
    assert "no file model.onnx.data" in error.message
    assert error.problems[0].place == str(folder / "model.onnx.data")
    assert "copy both" in str(error.hint)


def test_weights_that_are_a_folder(folder: Path) -> None:
    (folder / "model.onnx.data").unlink()
    (folder / "model.onnx.data").mkdir()
    assert problem(folder).code == "missing-data"


@given(part=st.floats(0, 1, exclude_max=True))
def test_weights_that_are_cut_short(workshop: Path, part: float) -> None:
    (workshop / "cut").mkdir(exist_ok=True)
    shutil.copy(workshop / "model.onnx", workshop / "cut")
    data = (workshop / "model.onnx.data").read_bytes()
    (workshop / "cut" / "model.onnx.data").write_bytes(data[: int(part * len(data))])
    error = problem(workshop / "cut")
    assert error.code == "damaged-data"
    assert f"{int(part * len(data))} bytes of at least {len(data)}" in error.message


def test_a_foreign_model_is_told_from_a_damaged_one(tmp_path: Path) -> None:
    whole = onnx.load_from_string(WHOLE)
    del whole.metadata_props[:]
    onnx.save(whole, tmp_path / "model.onnx")
    error = problem(tmp_path)
    assert error.code == "foreign-model"
    assert error.problems[0].place == str(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "changes",
    [
        {"rinsc.spec": 'signature = "A"\nmiracles = 3'},
        {"rinsc.spec": 'signature = "(A^3)B"\nkind = "telepathy"'},
        {"rinsc.rounds": '{"A": [3]}'},
    ],
)
def test_a_model_of_a_newer_rinsc(tmp_path: Path, changes: dict[str, str]) -> None:
    for version, code in (("99.0", "newer-model"), (__version__, None), ("nonsense", None)):
        _with_metadata(tmp_path / "model.onnx", {**changes, "rinsc.version": version})
        with pytest.raises(RinscError) as caught:
            Session(tmp_path)
        assert (caught.value.code == "newer-model") == (code is not None)
        if code is not None:
            assert "rinsc 99.0" in caught.value.message
            assert "rinsc>=99.0" in str(caught.value.hint)


@pytest.mark.parametrize(
    "changes",
    [
        {"rinsc.rounds": '{"A": Infinity}'},
        {"rinsc.rounds": "[" * 100_000},
        {"rinsc.spec": "a = " + "[" * 100_000},
        {"rinsc.spec": 'signature = "A"\nwidth = ' + "9" * 5000},
        {"rinsc.spec": "", "rinsc.version": "9" * 5000},
    ],
)
def test_metadata_that_nobody_would_write(tmp_path: Path, changes: dict[str, str]) -> None:
    _with_metadata(tmp_path / "model.onnx", changes)
    assert problem(tmp_path).code in ("foreign-model", "newer-model")


def test_a_newer_rinsc_whose_words_are_known_is_welcome(tmp_path: Path) -> None:
    _with_metadata(tmp_path / "model.onnx", {"rinsc.version": "99.0"})
    assert Session(tmp_path).spec == SPEC


def _opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 99


def _ir_version(model: onnx.ModelProto) -> None:
    model.ir_version = 99


def _standard_operator(model: onnx.ModelProto) -> None:
    _last_product(model).op_type = "Telepathy"


def _contrib_operator(model: onnx.ModelProto) -> None:
    node = _last_product(model)
    node.domain, node.op_type = "com.microsoft", "Telepathy"
    if all(opset.domain != "com.microsoft" for opset in model.opset_import):
        model.opset_import.add(domain="com.microsoft", version=1)


def _last_product(model: onnx.ModelProto) -> onnx.NodeProto:
    products: list[onnx.NodeProto] = [n for n in model.graph.node if n.op_type == "MatMul"]
    return products[-1]


@pytest.mark.parametrize("change", [_standard_operator, _contrib_operator])
def test_operators_of_a_newer_rinsc(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    model = onnx.load_from_string(WHOLE)
    change(model)
    onnx.save(model, tmp_path / "model.onnx")
    error = problem(tmp_path)
    assert error.code == "foreign-model"
    assert "Telepathy" in error.message
    _with_metadata(tmp_path / "model.onnx", {"rinsc.version": "99.0"}, model)
    assert problem(tmp_path).code == "newer-model"


@pytest.mark.parametrize("change", [_opset, _ir_version])
def test_operators_that_this_runtime_lacks(
    tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    model = onnx.load_from_string(WHOLE)
    change(model)
    onnx.save(model, tmp_path / "model.onnx")
    error = problem(tmp_path)
    assert error.code == "operator-not-supported"
    assert f"onnxruntime {onnxruntime.__version__}" in error.message
    assert "99" in error.message
    assert "upgrade" in str(error.hint)


def test_the_same_weights_load_as_they_were(folder: Path) -> None:
    """Sabotage: the tests above would pass if nothing at all could be loaded."""
    data = folder / "model.onnx.data"
    before = Session(folder).logits([[1, 2, 3]])
    data.write_bytes(data.read_bytes())
    np.testing.assert_array_equal(Session(folder).logits([[1, 2, 3]]), before)


def _with_metadata(
    path: Path, changes: dict[str, str], model: onnx.ModelProto | None = None
) -> None:
    model = onnx.load_from_string(WHOLE) if model is None else model
    kept = {prop.key: prop.value for prop in model.metadata_props}
    del kept["rinsc.sha256"]  # which is of the file as it was
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept | changes)
    onnx.save(model, path)


def test_the_weights_of_another_model_of_the_same_size(tmp_path: Path) -> None:
    for seed in (1, 2):
        folder = tmp_path / str(seed)
        folder.mkdir()
        to_onnx(lively_model(small_spec(), seed)).save(folder / "model.onnx", external_data_over=0)
    data = tmp_path / "1" / "model.onnx.data"
    Session(tmp_path / "1")
    data.write_bytes((tmp_path / "2" / "model.onnx.data").read_bytes())
    with pytest.raises(CheckpointError) as caught:
        Session(tmp_path / "1")
    assert caught.value.code == "damaged-data"
