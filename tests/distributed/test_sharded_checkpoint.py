"""Checkpoints of one number of processes in another, and those that are not to be read."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex

from rinsc.backends.torch import sharded_checkpoint
from rinsc.backends.torch.sharded_checkpoint import (
    MANIFEST,
    full_state_dict,
    load_sharded,
    save_sharded,
)
from rinsc.errors import CheckpointError, OutputError
from rinsc.spec import ModelSpec
from tests.distributed.checks import BROKEN_AT, RESUMED, STEPS
from tests.distributed.conftest import Alone
from tests.distributed.ranks import Found, found
from tests.distributed.training import adamw, fresh, spec_of, train

LOSS_LIMIT = 2e-5
REST = range(BROKEN_AT, STEPS)


@pytest.mark.parametrize("way", ["ddp", "pin"])
def test_two_processes_then_one(ranks: Found, alone: Alone, way: str) -> None:
    for losses in found(ranks, f"writes: {way}"):
        assert losses == pytest.approx(alone.losses, abs=LOSS_LIMIT)
    model = fresh(RESUMED, seed=99)
    optimizers = adamw(model)
    extra = load_sharded(alone.folder / f"from-{way}", model, optimizers)
    assert extra == {"step": BROKEN_AT}
    losses = train(model, optimizers, RESUMED, REST)
    assert losses == pytest.approx(alone.losses[BROKEN_AT:], abs=LOSS_LIMIT)


@pytest.mark.parametrize("way", ["ddp", "pin", "pin, from ddp"])
def test_one_process_then_two(ranks: Found, alone: Alone, way: str) -> None:
    for extra, losses in found(ranks, f"continues: {way}"):
        assert extra == {"step": BROKEN_AT}
        assert losses == pytest.approx(alone.losses[BROKEN_AT:], abs=LOSS_LIMIT)


def test_a_place_that_cannot_be_written_fails_on_every_rank(ranks: Found) -> None:
    for code, hint in found(ranks, "cannot save"):
        assert code == "cannot-write"
        assert hint


def test_a_disk_that_fills_up_is_no_exception_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*given: object, **named: object) -> None:
        raise CheckpointException("", {0: (RuntimeError("unexpected pos 704 vs 598"), None)})  # type: ignore[dict-item]

    monkeypatch.setattr(sharded_checkpoint, "save", full)
    model = fresh(RESUMED)
    with pytest.raises(RuntimeError, match="unexpected pos"):
        save_sharded(tmp_path / "step", model, adamw(model), {})
    assert list(tmp_path.iterdir()) == []


def test_one_process_then_one_is_exact(alone: Alone) -> None:
    model = fresh(RESUMED, seed=99)
    optimizers = adamw(model)
    load_sharded(alone.folder / "from-one", model, optimizers)
    assert train(model, optimizers, RESUMED, REST) == alone.losses[BROKEN_AT:]


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = fresh(RESUMED)
    save_sharded(tmp_path / "step-1", model, adamw(model), {})
    return tmp_path / "step-1"


def load(folder: Path, other: str | ModelSpec = RESUMED) -> None:
    """Into other weights, which stay as they are where it fails."""
    model = fresh(spec_of(other) if isinstance(other, str) else other, seed=7)
    before = full_state_dict(model)
    before = {name: tensor.clone() for name, tensor in before.items()}
    try:
        load_sharded(folder, model, adamw(model))
    except CheckpointError:
        after = full_state_dict(model)
        assert all(torch.equal(before[name], after[name]) for name in before)
        raise


def _cut(folder: Path) -> None:
    data = next(folder.glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-1])


def _lose(folder: Path) -> None:
    next(folder.glob("*.distcp")).unlink()


def _lose_index(folder: Path) -> None:
    (folder / ".metadata").unlink()


def _garble(folder: Path) -> None:
    (folder / MANIFEST).write_text("{")


def _rename(folder: Path) -> None:
    (folder / MANIFEST).write_text(json.dumps({"format": "other"}))


def _unfinished(folder: Path) -> None:
    (folder / MANIFEST).unlink()


@pytest.mark.parametrize(
    ("damage", "code"),
    [
        (_cut, "damaged-checkpoint"),
        (_lose, "damaged-checkpoint"),
        (_lose_index, "damaged-checkpoint"),
        (_garble, "damaged-checkpoint"),
        (_rename, "not-a-checkpoint"),
        (_unfinished, "no-checkpoint"),
    ],
)
def test_a_torn_checkpoint_is_never_read(
    saved: Path, damage: Callable[[Path], None], code: str
) -> None:
    load(saved)
    damage(saved)
    with pytest.raises(CheckpointError) as caught:
        load(saved)
    assert caught.value.code == code
    assert caught.value.hint


class Runs:
    """Unpickled, it makes the file that it was given."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (self.witness,)


def _sign(folder: Path) -> None:
    """The manifest as a stranger would write it, for the files as they are."""
    manifest = json.loads((folder / MANIFEST).read_text())
    files = [path for path in folder.iterdir() if path.name != MANIFEST]
    manifest["files"] = {path.name: path.stat().st_size for path in files}
    manifest["sha256"] = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files
    }
    del manifest["digest"]  # as one without
    (folder / MANIFEST).write_text(json.dumps(manifest))


def _index(folder: Path) -> Metadata:
    index: Metadata = pickle.loads((folder / ".metadata").read_bytes())
    return index


def _write_index(folder: Path, index: object) -> None:
    (folder / ".metadata").write_bytes(pickle.dumps(index))


def _index_runs(folder: Path, witness: Path) -> None:
    _write_index(folder, Runs(witness))


def _index_runs_inside(folder: Path, witness: Path) -> None:
    index = _index(folder)
    index.planner_data = [Runs(witness)]
    _write_index(folder, index)


def _put(folder: Path, key: str, content: bytes) -> None:
    """Other content for an entry, at the end of its data file."""
    index = _index(folder)
    place = index.storage_data[MetadataIndex(key)]
    data = folder / place.relative_path
    place.offset, place.length = data.stat().st_size, len(content)
    data.write_bytes(data.read_bytes() + content)
    _write_index(folder, index)


def _saved_bytes(value: object) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream)
    return stream.getvalue()


def _number_runs(folder: Path, witness: Path) -> None:
    _put(folder, "optimizer.param_groups.0.lr", _saved_bytes(Runs(witness)))


def _number_unpacks(folder: Path, witness: Path) -> None:
    """40 kB that unpack to 40 MB."""
    packed = io.BytesIO()
    plain = zipfile.ZipFile(io.BytesIO(_saved_bytes(torch.zeros(10_000_000))))
    with plain, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in plain.namelist():
            archive.writestr(name, plain.read(name))
    assert len(packed.getvalue()) < 100_000
    _put(folder, "optimizer.param_groups.0.lr", packed.getvalue())


def _points_out(folder: Path, witness: Path) -> None:
    index = _index(folder)
    for place in index.storage_data.values():
        data = folder / place.relative_path
        (folder.parent / "elsewhere").write_bytes(data.read_bytes())
        place.relative_path = "../elsewhere"
    _write_index(folder, index)


def _points_beyond(folder: Path, witness: Path) -> None:
    index = _index(folder)
    next(iter(index.storage_data.values())).length = 1 << 50
    _write_index(folder, index)


def _claims_a_huge_memo(folder: Path, witness: Path) -> None:
    (folder / ".metadata").write_bytes(b"\x80\x04Nr\xff\xff\xff\x7f.")


def _claims_huge_bytes(folder: Path, witness: Path) -> None:
    (folder / ".metadata").write_bytes(b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".")


@pytest.mark.parametrize(
    "attack",
    [
        *(_index_runs, _index_runs_inside, _number_runs, _number_unpacks),
        *(_points_out, _points_beyond, _claims_a_huge_memo, _claims_huge_bytes),
    ],
)
def test_a_stranger_s_checkpoint_runs_nothing(
    saved: Path, attack: Callable[[Path, Path], None]
) -> None:
    """Its lists of files and digests are right: only what the files say is not."""
    witness = saved.parent / "ran"
    attack(saved, witness)
    _sign(saved)
    with pytest.raises(CheckpointError) as caught:
        load(saved)
    assert caught.value.code == "damaged-checkpoint"
    assert not witness.exists()


def test_a_flipped_bit_is_found(saved: Path) -> None:
    data = next(saved.glob("*.distcp"))
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 4
    data.write_bytes(bytes(content))
    with pytest.raises(CheckpointError) as caught:
        load(saved)
    assert caught.value.code == "damaged-checkpoint"
    assert data.name in caught.value.message


def test_a_flipped_bit_in_what_the_run_keeps_is_found(saved: Path) -> None:
    manifest = (saved / MANIFEST).read_text()
    (saved / MANIFEST).write_text(manifest.replace('"extra": {}', '"extra": {"step": 3}'))
    with pytest.raises(CheckpointError) as caught:
        load(saved)
    assert caught.value.code == "damaged-checkpoint"


def test_a_checkpoint_of_0_4_0_has_no_digests(saved: Path) -> None:
    manifest = json.loads((saved / MANIFEST).read_text())
    del manifest["sha256"], manifest["digest"]
    (saved / MANIFEST).write_text(json.dumps(manifest))
    load(saved)


@pytest.mark.parametrize(
    ("other", "says"),
    [
        ("P(A^3{skip=0.5})", "differ in A, B"),
        ("P(A^3{skip=0.5, adapter=scale})B", "differ in loop_A"),
        ("P(A^4{skip=0.5})B", "visited in another way"),
        (dataclasses.replace(RESUMED, norm_eps=1e-3), ": norm_eps is 0.001, not 1e-05"),
        (dataclasses.replace(RESUMED, rope_theta=7.0), ": rope_theta is 7.0, not 10000.0"),
    ],
)
def test_a_checkpoint_of_another_model(saved: Path, other: str | ModelSpec, says: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        load(saved, other)
    assert caught.value.code == "checkpoint-of-another-model"
    assert says in caught.value.message


def test_an_old_checkpoint_is_replaced(saved: Path) -> None:
    model = fresh(RESUMED, seed=5)
    save_sharded(saved, model, adamw(model), {"step": 2})
    other = fresh(RESUMED, seed=6)
    assert load_sharded(saved, other, adamw(other)) == {"step": 2}
    assert torch.equal(
        other.get_parameter("A.0.query.weight"), model.get_parameter("A.0.query.weight")
    )
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("allowed", [0, 20_000])
def test_the_old_one_survives_what_cannot_be_written(saved: Path, allowed: int) -> None:
    """The system lets no file grow beyond some bytes."""
    model = fresh(RESUMED, seed=5)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (allowed, limits[1]))
    try:
        with pytest.raises(OutputError, match="file too large") as caught:
            save_sharded(saved, model, adamw(model), {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "free space" in (caught.value.hint or "")
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]
    load(saved)


def test_what_was_begun_and_not_finished_is_no_checkpoint(saved: Path) -> None:
    """A process that is killed leaves a folder of another name; the next save takes its place."""
    begun = saved.with_name(".step-2.part")
    saved.rename(begun)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load(saved.with_name("step-2"))
    model = fresh(RESUMED)
    save_sharded(saved.with_name("step-2"), model, adamw(model), {})
    assert not begun.exists()
    load(saved.with_name("step-2"))


def test_whole_weights_have_the_names_of_the_model() -> None:
    model = fresh(spec_of("A^2B", tied_embedding=True))
    weights = full_state_dict(model)
    assert weights.keys() == model.state_dict().keys()
    assert not any(name.startswith("head") for name in weights)  # tied: stored once
