"""A run folder is a model of transformers, with its tokenizer and what ends a text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import rinsc.backends.hf  # noqa: F401
from tests.cli.command_line import run_cli
from tests.hf.texts import PAGE, tokenizer

TINY = ("--layers", "2", "--width", "16", "--heads", "2", "--kv-heads", "2", "--mlp-width", "24")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tokenizer().backend_tokenizer.save(str(folder / "words.json"))
    text = folder / "text.txt"
    text.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    sizes = (*TINY, "--vocab-size", "300", "--context", "32")
    status, _, err = run_cli(
        *("train", "(A^3)B", *sizes, "--data", f"text:{text}", "--budget", "4steps"),
        *("--batch", "2", "--tokenizer", str(folder / "words.json"), "-o", str(folder / "run")),
    )
    assert status == 0, err
    return folder / "run"


def test_special_tokens_reach_transformers(run: Path) -> None:
    words = AutoTokenizer.from_pretrained(run)
    assert (words.eos_token, words.pad_token) == ("<|endoftext|>", "<|pad|>")
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert (config["eos_token_id"], config["pad_token_id"]) == (words.eos_token_id, 1)
    assert config["use_cache"] is True


def test_a_batch_is_padded_and_generated_as_its_rows(run: Path) -> None:
    words: Any = AutoTokenizer.from_pretrained(run, padding_side="left")
    model: Any = AutoModelForCausalLM.from_pretrained(run)
    model.generation_config.eos_token_id = None
    batch = words(["rinsc compiles", "a"], return_tensors="pt", padding=True)
    made = model.generate(**batch, rounds=2, max_new_tokens=5, do_sample=False)[:, -5:]
    for row, text in enumerate(["rinsc compiles", "a"]):
        alone = words(text, return_tensors="pt")
        found = model.generate(**alone, rounds=2, max_new_tokens=5, do_sample=False)[0, -5:]
        assert torch.equal(found, made[row])


def test_the_exported_folder_keeps_them(run: Path, tmp_path: Path) -> None:
    assert run_cli("compile", str(run), "--to", "hf", "-o", str(tmp_path / "hub")).status == 0
    words = AutoTokenizer.from_pretrained(tmp_path / "hub")
    assert (words.eos_token, words.pad_token) == ("<|endoftext|>", "<|pad|>")
    generation = json.loads((tmp_path / "hub" / "generation_config.json").read_text("utf-8"))
    assert generation["eos_token_id"] == words.eos_token_id


@pytest.mark.parametrize("text", ["x", "[]", '{"added_tokens": [1]}'])
def test_a_damaged_tokenizer_is_one_error(run: Path, tmp_path: Path, text: str) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "tokenizer.json").write_text(text, encoding="utf-8")
    (tmp_path / "run" / "checksums.json").unlink(missing_ok=True)
    command = ("compile", str(tmp_path / "run"), "--to", "hf", "-o", str(tmp_path / "hub"))
    status, out, err = run_cli(*command)
    assert (status, out) == (1, "")
    assert err.startswith("error[bad-tokenizer]: ")
    assert not (tmp_path / "hub").exists()
