"""Files of weights: as the library safetensors reads them, and damage is found."""

from __future__ import annotations

import resource
import signal
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from rinsc.backends.torch import load_weights, save_weights
from rinsc.backends.torch.weights import DTYPES, write_tensors
from rinsc.errors import CheckpointError, OutputError, RinscError
from tests.onnx.models import lively_model, small_spec


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "model.safetensors"
    save_weights(lively_model(small_spec(), 3), path)
    return path


def test_the_library_reads_what_is_written(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        f'"{index}"\u00e9': torch.randint(0, 2, shape, generator=generator).to(dtype)
        for index, dtype in enumerate(DTYPES)
        for shape in ((3, index + 1),)
    }
    tensors |= {"scalar": torch.tensor(2.5), "none": torch.zeros(0, 4)}
    tensors["turned"] = torch.arange(6.0).reshape(2, 3).t()
    write_tensors(tensors, tmp_path / "w", {"format": "pt", "key": '"'})
    read = load_file(tmp_path / "w")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype
        assert torch.equal(read[name], tensor)


def test_equal_weights_make_equal_files(whole: Path, tmp_path: Path) -> None:
    save_weights(lively_model(small_spec(), 3), tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == whole.read_bytes()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_bit_is_found_or_changes_nothing(
    whole: Path, tmp_path: Path, data: st.DataObject
) -> None:
    content = bytearray(whole.read_bytes())
    header = 8 + int.from_bytes(content[:8], "little")
    span = data.draw(st.sampled_from([(0, header), (header, len(content))]))
    index = data.draw(st.integers(span[0], span[1] - 1))
    if data.draw(st.integers(0, 3)):
        content[index] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del content[index:]
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(content))
    model, expected = lively_model(small_spec(), 4), lively_model(small_spec(), 3).state_dict()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        load_weights(model, path)
    except RinscError:
        expected = before
    assert all(torch.equal(expected[name], each) for name, each in model.state_dict().items())


def test_a_changed_weight_is_named(whole: Path, tmp_path: Path) -> None:
    content = bytearray(whole.read_bytes())
    content[-1] ^= 0x40
    (tmp_path / "other.safetensors").write_bytes(bytes(content))
    with pytest.raises(CheckpointError) as caught:
        load_weights(lively_model(small_spec(), 4), tmp_path / "other.safetensors")
    assert caught.value.code == "damaged-weights"
    assert "other.safetensors" in str(caught.value)


def test_a_file_that_another_tool_wrote_has_no_digest(whole: Path, tmp_path: Path) -> None:
    """So it is with those of rinsc 0.4.0."""
    save_file({name: 2 * each for name, each in load_file(whole).items()}, tmp_path / "w")
    model = lively_model(small_spec(), 4)
    load_weights(model, tmp_path / "w")
    for name, tensor in lively_model(small_spec(), 3).state_dict().items():
        assert torch.equal(model.state_dict()[name], 2 * tensor)


def test_a_full_disk_leaves_the_old_file(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(whole.read_bytes())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OutputError) as caught:
            save_weights(lively_model(small_spec(), 5), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert caught.value.hint
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == whole.read_bytes()
