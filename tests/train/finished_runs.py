"""Two finished runs on a real text: a recursive model, and its baseline for the same FLOPs."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import pytest

from rinsc.data.corpora import load_corpus
from rinsc.training.finished import FinishedRun
from rinsc.training.opening import finished_run
from tests.cli.command_line import run_cli

DIMENSIONS = (
    *("--layers", "2", "--width", "28", "--heads", "7", "--kv-heads", "7"),
    *("--mlp-width", "37", "--context", "31"),
)
HOW = ("--batch", "3", "--seq", "23", "--lr", "1e-2", "--device", "cpu")


class Runs(NamedTuple):
    """Folders of runs, and the text that they were trained on."""

    recursive: Path
    baseline: Path
    text: Path


@lru_cache(maxsize=1)
def train_runs(folder: Path) -> Runs:
    """Trained once a session."""
    text = write_excerpts(folder)
    runs = Runs(folder / "recursive", folder / "baseline", text)
    train("AB", runs.baseline, text, "--steps", "97")
    tokenizer = str(runs.baseline / "tokenizer.json")
    train(
        *("A^3B", runs.recursive, text, "--steps", "97"),
        *("--match", "AB", "--tokenizer", tokenizer),
    )
    return runs


def write_excerpts(folder: Path) -> Path:
    """A folder of beginnings of real plays, a file each."""
    text = folder / "text"
    text.mkdir(parents=True)
    for document in load_corpus("plays").train[:13]:
        name = Path(document.name).name
        (text / name).with_suffix(".txt").write_text(document.text[:5003], encoding="utf-8")
    return text


def train(signature: str, folder: Path, text: Path, *more: str, vocab_size: int = 307) -> None:
    """A run of a tiny model."""
    done = run_cli(
        *("train", signature, *DIMENSIONS, *HOW, "--data", f"text:{text}"),
        *("-o", str(folder), "--vocab-size", str(vocab_size), *more),
    )
    assert done.status == 0, done.err


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return train_runs(tmp_path_factory.getbasetemp() / "finished")


@pytest.fixture
def recursive(runs: Runs) -> FinishedRun:
    return finished_run(runs.recursive)


@pytest.fixture
def baseline(runs: Runs) -> FinishedRun:
    return finished_run(runs.baseline)
