"""The model folder: written as a whole or not at all, and loaded by its name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest

from rinsc.backends.onnx import OnnxModel, Session, to_onnx
from rinsc.backends.onnx.write import file
from rinsc.backends.onnx.write.file import check_model_folder, write_model_folder
from rinsc.errors import OutputError
from tests.onnx.models import lively_model, random_ids, small_spec

FILES = {"tokenizer.json": b"{}", "heldout.txt": "für alle\n".encode()}
NAMES = ["heldout.txt", "model.onnx", "model.onnx.data", "tokenizer.json"]


@pytest.fixture(scope="module")
def exported() -> OnnxModel:
    return to_onnx(lively_model(small_spec()), "dynamic", cache=True)


def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_is_loaded_by_its_name(exported: OnnxModel, tmp_path: Path) -> None:
    folder = tmp_path / "some" / "model"
    paths = write_model_folder(exported, folder, FILES)
    assert [path.name for path in paths] == ["model.onnx", "model.onnx.data", *FILES]
    assert sorted(_contents(folder)) == NAMES
    assert all((folder / name).read_bytes() == content for name, content in FILES.items())
    ids = random_ids(small_spec(), 2, 7)
    for rounds in (1, 4):
        inline = Session(exported).logits(ids, rounds)
        np.testing.assert_array_equal(Session(folder).logits(ids, rounds), inline)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_tied_tables_stay_single(tmp_path: Path, precision: str) -> None:
    sizes = {}
    for tied in (True, False):
        model = lively_model(small_spec(vocab_size=512, tied_embedding=tied))
        folder = tmp_path / f"{tied}"
        write_model_folder(to_onnx(model, "dynamic", precision=precision), folder, {})
        sizes[tied] = (folder / "model.onnx.data").stat().st_size
    table_bytes = 512 * model.spec.width * (4 if precision == "fp32" else 2)
    assert sizes[False] - sizes[True] >= table_bytes


def test_what_is_written_replaces_the_old_and_nothing_else(
    exported: OnnxModel, tmp_path: Path
) -> None:
    for name in (*NAMES, "notes.md"):
        (tmp_path / name).write_bytes(b"old")
    (tmp_path / "sub").mkdir()
    write_model_folder(exported, tmp_path, {"tokenizer.json": b"new"})
    assert (tmp_path / "notes.md").read_bytes() == b"old"
    assert (tmp_path / "heldout.txt").read_bytes() == b"old"
    assert (tmp_path / "tokenizer.json").read_bytes() == b"new"
    assert (tmp_path / "sub").is_dir()
    assert Session(tmp_path).has_cache
    assert len(list(tmp_path.iterdir())) == len(NAMES) + 2


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", ["graph", "weights"])
def test_old_files_survive_a_failure(
    exported: OnnxModel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    failure: BaseException,
    place: str,
) -> None:
    old = {name: b"old " + name.encode() for name in (*NAMES, "notes.md")}
    for name, content in old.items():
        (tmp_path / name).write_bytes(content)

    def failing(*_: object) -> ir.ExternalTensor:
        raise failure

    monkeypatch.setattr(file, "_serialized" if place == "graph" else "_external", failing)
    expected = OutputError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_model_folder(exported, tmp_path, FILES)
    assert _contents(tmp_path) == old
    with pytest.raises(expected):
        write_model_folder(exported, tmp_path / "new" / "model", FILES)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_was_there_stays_when_writing_fails(
    exported: OnnxModel, tmp_path: Path
) -> None:
    (tmp_path / "model" / "model.onnx").mkdir(parents=True)
    with pytest.raises(OutputError, match="it is a folder"):
        write_model_folder(exported, tmp_path / "model", FILES)
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["model.onnx"]


def test_places_that_cannot_be_written_are_told_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "model" / "heldout.txt").mkdir(parents=True)
    for place in ("file", "file/below", "model"):
        with pytest.raises(OutputError) as caught:
            check_model_folder(tmp_path / place, FILES)
        assert caught.value.hint
    check_model_folder(tmp_path / "model", ["tokenizer.json"])
    check_model_folder(tmp_path / "new" / "model", FILES)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "model"]
    assert (tmp_path / "file").read_bytes() == b"mine"


MEASURED = """
import re, sys
from pathlib import Path
from rinsc.backends.onnx import to_onnx
from rinsc.backends.onnx.write.file import write_model_folder
from rinsc.backends.torch import to_torch
from rinsc.spec import model_spec

def peak():
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status)[1]) * 1024

def written(width, name):
    spec = model_spec(
        "(A^3)B", layers=8, width=width, heads=8, kv_heads=8, mlp_width=2 * width,
        vocab_size=2048, context=64,
    )
    module = to_torch(spec)
    before = peak()
    model = to_onnx(module, "dynamic", cache=True)
    write_model_folder(model, Path(sys.argv[1]) / name, {})
    streamed = peak() - before
    model.to_bytes()
    return sum(each.nbytes for each in module.parameters()), streamed, peak() - before

written(64, "small")  # what the libraries take themselves
print(*written(704, "large"))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's peak of memory")
def test_there_is_no_second_copy_of_the_weights(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    weights, streamed, whole = map(int, done.stdout.split())
    assert weights > 150e6
    assert (tmp_path / "large" / "model.onnx.data").stat().st_size >= weights
    assert streamed < 0.2 * weights
    assert whole > 0.9 * weights  # one protobuf is a copy: so a copy would be seen
