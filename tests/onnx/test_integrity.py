"""Files of a stranger and damaged ones: nothing elsewhere is opened, and no changed byte is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.onnx.outline import read_outline
from rinsc.errors import LoweringError, RinscError
from rinsc.storage.files import sampled_digest
from tests.onnx.models import lively_model, random_ids, small_spec

IDS = random_ids(small_spec(), 2, 7)


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in one file."""
    path = tmp_path_factory.mktemp("one") / "model.onnx"
    to_onnx(lively_model(small_spec(), 0)).save(path)
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its weights in a second file."""
    path = tmp_path_factory.mktemp("two") / "model.onnx"
    to_onnx(lively_model(small_spec(), 0)).save(path, external_data_over=0)
    return path


def _copy(path: Path, folder: Path) -> Path:
    for file in path.parent.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder / path.name


def _refused(path: Path) -> RinscError:
    with pytest.raises(RinscError) as caught:
        Session(path)
    assert caught.value.hint
    return caught.value


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_bit_is_found_or_changes_nothing(
    one: Path, two: Path, tmp_path: Path, data: st.DataObject
) -> None:
    source = data.draw(st.sampled_from([one, two]))
    path = _copy(source, tmp_path)
    victim = data.draw(st.sampled_from(sorted(source.parent.iterdir())))
    content = bytearray(victim.read_bytes())
    index = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[index] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[index:]
    (tmp_path / victim.name).write_bytes(bytes(content))
    try:
        found = Session(path).logits(IDS)
    except RinscError:
        return
    np.testing.assert_array_equal(found, Session(source).logits(IDS))


def test_a_changed_weight_is_found(one: Path, two: Path, tmp_path: Path) -> None:
    """In the middle of the largest tensor, where nothing but a digest can see it."""
    tensors = onnx.load(one).graph.initializer
    raw = max((tensor.raw_data for tensor in tensors), key=len)
    for source, name in ((one, "model.onnx"), (two, "model.onnx.data")):
        path = _copy(source, tmp_path)
        content = bytearray((tmp_path / name).read_bytes())
        content[content.find(raw) + len(raw) // 2] ^= 0x40
        (tmp_path / name).write_bytes(bytes(content))
        error = _refused(path)
        assert error.code in ("damaged-model", "damaged-data")
        assert name in str(error)


def test_models_of_0_4_0_have_no_digest(one: Path, two: Path, tmp_path: Path) -> None:
    for source in (one, two):
        model = onnx.load(source, load_external_data=False)
        kept = {prop.key: prop.value for prop in model.metadata_props}
        del kept["rinsc.sha256"], model.metadata_props[:]
        if "rinsc.data" in kept:
            (tmp_path / "model.onnx.data").write_bytes(
                (source.parent / "model.onnx.data").read_bytes()
            )
            digest = sampled_digest(tmp_path / "model.onnx.data")
            kept["rinsc.data"] = json.dumps(["model.onnx.data", digest])
        onnx.helper.set_model_props(model, kept)
        (tmp_path / "model.onnx").write_bytes(model.SerializeToString())
        np.testing.assert_array_equal(
            Session(tmp_path / "model.onnx").logits(IDS), Session(source).logits(IDS)
        )


def _changed(source: Path, path: Path, change: Callable[[onnx.ModelProto], None]) -> Path:
    """The model as a stranger writes it, who leaves the digest out."""
    model = onnx.load(source, load_external_data=False)
    kept = {prop.key: prop.value for prop in model.metadata_props if prop.key != "rinsc.sha256"}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept)
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def _set_metadata(key: str, value: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        kept = {prop.key: prop.value for prop in model.metadata_props}
        del model.metadata_props[:]
        onnx.helper.set_model_props(model, kept | {key: value})

    return change


def _outside(tensor: TensorProto, location: str) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    del tensor.external_data[:]
    for key, value in (("location", location), ("offset", "0"), ("length", "64")):
        tensor.external_data.add(key=key, value=value)


def _initializer(location: str) -> Callable[[onnx.ModelProto], None]:
    return lambda model: _outside(model.graph.initializer[-1], location)


def _inside_a_node(location: str) -> Callable[[onnx.ModelProto], None]:
    def change(model: onnx.ModelProto) -> None:
        value = onnx.helper.make_tensor("x", TensorProto.FLOAT, [16], [0.0] * 16)
        node = onnx.helper.make_node("Constant", [], ["unused"], value=value)
        _outside(node.attribute[0].t, location)
        body = onnx.helper.make_graph([node], "then", [], [])
        branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=body, else_branch=body)
        model.graph.node.append(branch)

    return change


@pytest.mark.parametrize("how", [_initializer, _inside_a_node])
@pytest.mark.parametrize(
    "location", ["../secret", "/etc/hostname", "a/../../secret", "*/_ORT_MEM_ADDR_/*", "..", ""]
)
def test_weights_outside_of_the_folder_are_not_opened(
    one: Path,
    tmp_path: Path,
    how: Callable[[str], Callable[[onnx.ModelProto], None]],
    location: str,
) -> None:
    (tmp_path / "secret").write_bytes(bytes(64))
    folder = tmp_path / "model"
    folder.mkdir()
    error = _refused(_changed(one, folder / "model.onnx", how(location)))
    assert error.code == "foreign-model"
    assert "outside" in error.message


def test_a_record_of_weights_outside_is_not_opened(two: Path, tmp_path: Path) -> None:
    """A pipe would wait for ever."""
    os.mkfifo(tmp_path / "pipe")
    folder = tmp_path / "model"
    folder.mkdir()
    _copy(two, folder)
    for name in ("../pipe", str(tmp_path / "pipe"), 5, None):
        change = _set_metadata("rinsc.data", json.dumps([name, "0" * 16]))
        assert _refused(_changed(two, folder / "model.onnx", change)).code == "damaged-data"


def test_a_record_of_one_file_is_not_enough_for_two(two: Path, tmp_path: Path) -> None:
    _copy(two, tmp_path)
    (tmp_path / "more.data").write_bytes(bytes(64))

    def change(model: onnx.ModelProto) -> None:
        tensor = onnx.helper.make_tensor("x", TensorProto.FLOAT, [16], [0.0] * 16)
        _outside(tensor, "more.data")
        model.graph.initializer.append(tensor)

    assert _refused(_changed(two, tmp_path / "model.onnx", change)).code == "damaged-data"


def test_a_signature_in_the_metadata_opens_no_file(one: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text('signature = "AB"\npreset = "tiny"\n')
    for name in (str(own), "huginn"):
        change = _set_metadata("rinsc.spec", f'signature = "{name}"\npreset = "tiny"\n')
        assert _refused(_changed(one, tmp_path / "m.onnx", change)).code == "foreign-model"


@pytest.mark.parametrize(
    ("domain", "name"), [("com.microsoft", "EPContext"), ("mine", "Run"), ("com.acme", "MatMul")]
)
def test_operators_that_load_code(one: Path, tmp_path: Path, domain: str, name: str) -> None:
    def change(model: onnx.ModelProto) -> None:
        node = onnx.helper.make_node(name, [], ["unused"], domain=domain)
        model.graph.node.append(node)

    error = _refused(_changed(one, tmp_path / "m.onnx", change))
    assert error.code == "foreign-model"
    assert name in error.message


def test_functions_of_the_model_are_refused(one: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        opset = onnx.helper.make_opsetid("", 20)
        model.functions.append(onnx.helper.make_function("mine", "F", [], [], [], [opset]))

    assert "F" in _refused(_changed(one, tmp_path / "m.onnx", change)).message


@pytest.mark.parametrize("dims", [[1 << 40], [1 << 20, 1 << 20], [3, 5]])
def test_a_tensor_that_claims_more_than_it_holds(
    one: Path, tmp_path: Path, dims: list[int]
) -> None:
    def change(model: onnx.ModelProto) -> None:
        tensor = TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=dims, raw_data=b"1234")
        model.graph.initializer.append(tensor)

    error = _refused(_changed(one, tmp_path / "m.onnx", change))
    assert error.code == "foreign-model"
    assert "huge" in error.message


def _add(model: onnx.ModelProto, name: str, inputs: list[str], **attributes: Any) -> str:
    """Adds a node before the others, whose value is an output; gives the value's name."""
    value = f"strange/{len(model.graph.output)}"
    model.graph.node.insert(0, onnx.helper.make_node(name, inputs, [value], **attributes))
    model.graph.output.append(onnx.helper.make_tensor_value_info(value, TensorProto.INT64, None))
    return value


def _int64(model: onnx.ModelProto, *numbers: int) -> str:
    name = f"strange/{len(model.graph.initializer)}"
    array = np.array(numbers if len(numbers) > 1 else numbers[0], np.int64)
    model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return name


def _expanded(model: onnx.ModelProto) -> None:
    _add(model, "Expand", [_int64(model, 1), _int64(model, 1 << 12, 1 << 12)])


def _counted(model: onnx.ModelProto) -> None:
    _add(model, "Range", [_int64(model, number) for number in (0, 1 << 24, 1)])


def _joined(model: onnx.ModelProto) -> None:
    piece = _int64(model, *range(1 << 12))
    _add(model, "Concat", [piece] * (1 << 12), axis=0)


def _multiplied(model: onnx.ModelProto) -> None:
    row = _int64(model, *range(1 << 12))
    column = _add(model, "Unsqueeze", [row, _int64(model, 1)])
    _add(model, "Add", [row, column])
    model.graph.node.insert(0, model.graph.node.pop(1))  # what it needs stands behind it


def _reshaped_and_joined(model: onnx.ModelProto) -> None:
    once = "strange/once"
    inputs = [_int64(model, *range(1 << 12)), _int64(model, 1, 1 << 12)]
    _add(model, "Concat", [once] * (1 << 12), axis=0)
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", inputs, [once]))


def _filled(model: onnx.ModelProto) -> None:
    _add(model, "ConstantOfShape", [_int64(model, 1 << 12, 1 << 12)])


def _tiled(model: onnx.ModelProto) -> None:
    _add(model, "Tile", ["input_ids", _int64(model, 1 << 12, 1 << 12)])


def _random(model: onnx.ModelProto) -> None:
    _add(model, "RandomNormal", [], shape=[1 << 12, 1 << 12])


def _sparse(model: onnx.ModelProto) -> None:
    value = onnx.helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    place = onnx.helper.make_tensor("i", TensorProto.INT64, [1], [0])
    sparse = onnx.helper.make_sparse_tensor(value, place, [1 << 12, 1 << 12])
    model.graph.sparse_initializer.append(sparse)


@pytest.mark.parametrize(
    "change",
    [
        *(_expanded, _counted, _joined, _multiplied, _reshaped_and_joined),
        *(_filled, _tiled, _random, _sparse),
    ],
)
def test_no_numbers_are_made_from_a_few(
    one: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None]
) -> None:
    """Of each, ONNX Runtime would make a hundred megabytes before anything is asked for."""
    error = _refused(_changed(one, tmp_path / "m.onnx", change))
    assert error.code == "foreign-model"
    assert "constants alone" in error.message or "never writes" in error.message


def test_loading_computes_nothing(one: Path, tmp_path: Path) -> None:
    """Shapes that a file declares are constants to the runtime, too."""

    def change(model: onnx.ModelProto) -> None:
        shape, kind = [1 << 12, 1 << 12], TensorProto.INT64
        model.graph.input.append(onnx.helper.make_tensor_value_info("declared", kind, shape))
        number, size = _int64(model, 1), "strange/size"
        for _ in range(4):
            _add(model, "Expand", [number, size])
        node = onnx.helper.make_node("Shape", ["declared"], [size])
        model.graph.node.insert(0, node)

    path = _changed(one, tmp_path / "m.onnx", change)
    script = f"""if True:
        import re
        import rinsc.backends.onnx as onnx
        def peak():  # not ru_maxrss, which begins at the peak of the process that started this one
            return int(re.search("VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
        onnx.Session({str(one)!r}, threads=1)  # with all that is imported for it
        before = peak()
        onnx.Session({str(path)!r}, threads=1)
        print(peak() - before)
    """
    kilobytes = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert int(kilobytes.stdout) < 64 << 10, kilobytes.stdout


def test_a_model_that_fails_while_it_runs(one: Path, tmp_path: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.input[:] = ["huge" if name == "input_ids" else name for name in node.input]
        size = _add(model, "Shape", ["input_ids"])
        nodes = [
            onnx.helper.make_node("Mul", [size, _int64(model, 1 << 30)], ["sizes"]),
            onnx.helper.make_node("Expand", ["input_ids", "sizes"], ["huge"]),
        ]
        for index, node in enumerate(nodes):
            model.graph.node.insert(1 + index, node)

    session = Session(_changed(one, tmp_path / "m.onnx", change), threads=1)
    with pytest.raises(LoweringError) as caught:
        session.logits(IDS)
    assert caught.value.code == "run-failed"


@pytest.mark.parametrize("size", [1 << 40, "elsewhere"])
def test_a_cache_of_other_sizes_than_the_spec(tmp_path: Path, size: int | str) -> None:
    path = tmp_path / "model.onnx"
    to_onnx(lively_model(small_spec()), cache=True, portable=True).save(path)

    def change(model: onnx.ModelProto) -> None:
        slot = next(each for each in model.graph.input if each.name.startswith("past_key_values"))
        dim = slot.type.tensor_type.shape.dim[2]
        dim.CopyFrom(onnx.TensorShapeProto.Dimension())
        if isinstance(size, int):
            dim.dim_value = size
        else:
            dim.dim_param = size

    assert _refused(_changed(path, path, change)).code in ("foreign-model", "damaged-model")


def test_the_outline_lists_what_onnx_lists(one: Path) -> None:
    model, outline = onnx.load(one), read_outline(memoryview(one.read_bytes()))
    assert outline.operators == {(node.domain, node.op_type) for node in model.graph.node}
    assert outline.data_types >= {tensor.data_type for tensor in model.graph.initializer}
    assert outline.hollow == ()


def test_graphs_that_nest_too_deep(tmp_path: Path) -> None:
    """By hand, as protobuf's own writer refuses them: a graph in an attribute of a node, …"""

    def field(number: int, content: bytes) -> bytes:
        length = bytes([len(content) & 0x7F | 0x80, len(content) >> 7 & 0x7F | 0x80])
        return bytes([number << 3 | 2]) + length + bytes([len(content) >> 14]) + content

    graph = b""
    for _ in range(90):
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "m.onnx").write_bytes(b"\x08\x0a" + field(7, graph))
    assert _refused(tmp_path / "m.onnx").code == "damaged-model"
