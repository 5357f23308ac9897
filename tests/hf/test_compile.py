"""``rinsc compile --to hf``: what is written of a signature and of a run, and what is refused."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from rinsc.backends.torch import load_weights, save_weights, to_torch
from rinsc.errors import RinscError
from rinsc.spec import model_spec
from tests.cli.command_line import run_cli
from tests.cli.conftest import SIGNATURE, TINY, corpus, run
from tests.hf.models import ids

__all__ = ["corpus", "run"]  # fixtures


def compiled(output: Path, *more: str, model: str = "(A^3)B", dimensions: Any = TINY) -> Any:
    return run_cli("compile", model, *dimensions, "--to", "hf", "-o", str(output), *more)


def test_a_run_has_its_weights_and_its_tokenizer(run: Path, tmp_path: Path) -> None:
    done = compiled(tmp_path / "out", "--json", model=str(run), dimensions=())
    assert done.status == 0, done.err
    facts = json.loads(done.out)
    assert facts["signature"] == SIGNATURE
    assert {Path(name).name for name in facts["files"]} == set(os.listdir(tmp_path / "out"))
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    trained = to_torch(model_spec(run / "model.toml"))
    load_weights(trained, run / "model.safetensors")
    given = ids(trained.spec, 1, 5)
    assert torch.equal(model(given).logits, trained.eval()(given))
    words = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert words.decode(words("the river")["input_ids"]) == "the river"
    assert GenerationConfig.from_pretrained(tmp_path / "out").use_cache
    assert "untrained" not in done.err


def test_rounds_weights_and_seed(tmp_path: Path) -> None:
    assert compiled(tmp_path / "one", "--seed", "3", "--rounds", "A=5").status == 0
    model: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "one")
    assert model.config.rounds == {"A": 5}
    torch.manual_seed(3)
    plain = to_torch(model.config.model_spec).eval()
    given = ids(plain.spec, 1, 5)
    assert torch.equal(model(given).logits, plain(given, rounds=5))
    save_weights(plain, tmp_path / "weights.safetensors")
    done = compiled(tmp_path / "two", "--weights", str(tmp_path / "weights.safetensors"))
    assert done.status == 0
    assert "untrained" not in done.err
    again: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "two")
    assert torch.equal(again(given, rounds=2).logits, plain(given, rounds=2))
    assert compiled(tmp_path / "two", "--seed", "4").status == 0  # over one of our own


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (("--cache",), "usage"),
        (("--precision", "int8", "--genai"), "usage"),
        (("--rounds", "Z=2"), "unknown-repeat"),
        (("--weights", "missing.safetensors"), "weights-not-readable"),
    ],
)
def test_what_is_refused_writes_nothing(
    tmp_path: Path, options: tuple[str, ...], code: str
) -> None:
    done = compiled(tmp_path / "out", *options)
    assert done.status in (1, 2)
    assert re.findall(r"error\[([a-z-]+)\]", done.err) == [code]
    assert "Traceback" not in done.err
    assert "hint" in done.err
    assert not (tmp_path / "out").exists()


def test_a_place_that_is_taken_is_left_alone(run: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in run.iterdir() if path.is_file()}
    done = compiled(run)
    assert "holds a training run" in done.err
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == before
    (tmp_path / "file").write_text("mine")
    assert "this is a file" in compiled(tmp_path / "file").err
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')
    done = compiled(other)
    assert done.status == 1
    assert "folder-taken" in done.err
    assert os.listdir(other) == ["config.json"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    assert compiled(tmp_path / "notes").status == 0
    assert (tmp_path / "notes" / "notes.txt").read_text() == "mine"


def test_a_full_disk_is_one_error(tmp_path: Path) -> None:
    assert compiled(tmp_path / "out").status == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))
    try:
        done = [compiled(tmp_path / name, "--seed", "9") for name in ("out", "new")]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    for each in done:
        assert each.status == 1
        assert "error[cannot-write]: cannot write: file too large" in each.err
        assert "Traceback" not in each.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_while_writing_leaves_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compiled(tmp_path / "out").status == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}

    def full(*given: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rinsc.backends.hf.folder.write_tensors", full)
    for output in ("out", "new/deep"):
        done = compiled(tmp_path / output, "--seed", "9")
        assert done.status == 1
        assert "no space left" in done.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.json", SIGNATURE, "A^3B"),
        ("config.json", '"norm_eps": 1e-05', '"norm_eps": 1e-04'),
        ("config.json", '"rounds": 2', '"rounds": 3'),
        ("tokenizer.json", '"the"', '"thy"'),
        ("checksums.json", "config.json: spec, rounds", "config.json: spec; rounds"),
    ],
)
def test_a_changed_file_is_found(run: Path, tmp_path: Path, name: str, old: str, new: str) -> None:
    """Right in its form, so that nothing but a digest can see it."""
    out = tmp_path / "out"
    done = compiled(out, "--rounds", "2", model=str(run), dimensions=())
    assert done.status == 0, done.err
    command = ("generate", str(out), "--prompt", "the river", "--max-new-tokens", "1")
    assert run_cli(*command).status == 0
    text = (out / name).read_text()
    old, new = (old, new) if old in text else ('"id": 0', '"id": 269')
    (out / name).write_text(text.replace(old, new, 1))
    assert text != (out / name).read_text()
    said = run_cli(*command)
    assert said.status == 1, said.out
    assert "as it was written" in said.err or "as they were written" in said.err
    if name != "tokenizer.json":
        with pytest.raises(RinscError, match="as they were written"):
            AutoModelForCausalLM.from_pretrained(out)
    (out / "checksums.json").unlink()
    if name == "checksums.json":
        assert run_cli(*command).status == 0


def test_the_config_of_a_run_is_compared_too(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    AutoModelForCausalLM.from_pretrained(copy)
    text = (copy / "config.json").read_text()
    (copy / "config.json").write_text(text.replace(SIGNATURE, "A^3B"))
    with pytest.raises(RinscError, match="as they were written"):
        AutoModelForCausalLM.from_pretrained(copy)
