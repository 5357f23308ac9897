"""Files of weights: as the library safetensors reads them, and damage is found."""

from __future__ import annotations

import dataclasses
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

import rinsc
from rinsc.backends.hf import causal_lm
from rinsc.backends.torch import load_weights, save_weights
from rinsc.backends.torch.weight_files import DTYPES, write_tensors
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


@pytest.mark.parametrize("size", ["50GB", "20KB"])
def test_saved_models_of_other_settings_are_refused_by_name(tmp_path: Path, size: str) -> None:
    """Tensors of the same names and shapes: only the config.json tells, of one file and of many."""
    spec = small_spec()
    causal_lm(spec).save_pretrained(tmp_path, max_shard_size=size)
    (path,) = [*tmp_path.glob("*.index.json"), *tmp_path.glob("model.safetensors")]
    assert ("index" in path.name) == (size == "20KB")
    load_weights(rinsc.to_torch(spec), path)
    with pytest.raises(CheckpointError, match=r"norm_eps is 0\.25, not") as caught:
        load_weights(rinsc.to_torch(dataclasses.replace(spec, norm_eps=0.25)), path)
    assert caught.value.code == "weights-of-another-model"
    (tmp_path / "config.json").unlink()  # nothing says so any more
    load_weights(rinsc.to_torch(dataclasses.replace(spec, norm_eps=0.25)), path)


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


@pytest.mark.parametrize(
    ("make", "kind"),
    [(rinsc.to_torch, "llama"), (rinsc.to_torch, "gpt"), (causal_lm, "llama")],
)
def test_a_module_on_no_device_takes_its_weights_by_every_way(make: Any, kind: str) -> None:
    spec = rinsc.model_spec("A^3B", preset="tiny", layers=2, kind=kind)
    full, ids = make(spec).eval(), torch.arange(7)[None]
    expected = getattr(full(ids), "logits", full(ids))

    def empty() -> Any:
        with torch.device("meta"):
            return make(spec).eval()

    emptied, assigned = empty().to_empty(device="cpu"), empty()
    emptied.load_state_dict(full.state_dict())
    assigned.load_state_dict(full.state_dict(), assign=True)
    nested = torch.nn.ModuleList([empty()]).to_empty(device="cpu")
    nested.load_state_dict(torch.nn.ModuleList([full]).state_dict())
    for model in (emptied, assigned, nested[0]):
        logits = getattr(model(ids), "logits", model(ids))
        torch.testing.assert_close(logits, expected, rtol=0, atol=0)


def test_a_file_fills_a_module_on_no_device(tmp_path: Path) -> None:
    spec = rinsc.model_spec("A^3B", preset="tiny", layers=2)
    full, ids = rinsc.to_torch(spec), torch.arange(7)[None]
    rinsc.save_weights(full, tmp_path / "full.safetensors")
    empty = rinsc.to_torch(spec, device="meta")
    with pytest.raises(rinsc.RinscError, match="holds no numbers"):
        rinsc.save_weights(empty, tmp_path / "empty.safetensors")
    assert not (tmp_path / "empty.safetensors").exists()
    rinsc.load_weights(empty, tmp_path / "full.safetensors")
    torch.testing.assert_close(empty(ids), full(ids), rtol=0, atol=0)
