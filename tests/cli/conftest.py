"""A model so small that training it takes a second, trained once for all tests here."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.command_line import run_cli

TINY = (
    *("--layers", "2", "--width", "16", "--heads", "2", "--kv-heads", "1"),
    *("--mlp-width", "24", "--vocab-size", "270", "--context", "16"),
)
SIGNATURE = "A^2B"


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text that says the same thing often enough to be learned from."""
    path = tmp_path_factory.mktemp("corpus") / "rain.txt"
    lines = [f"On day {day} the rain fell, and the river rose by {day % 7}." for day in range(300)]
    path.write_text("\n".join(lines), encoding="utf-8")
    return f"text:{path}"


@pytest.fixture(scope="session")
def run(corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("runs") / "one"
    done = run_cli(
        *("train", SIGNATURE, *TINY, "--data", corpus, "-o", str(folder)),
        *("--steps", "4", "--batch", "2", "--device", "cpu"),
    )
    assert done.status == 0, done.err
    return folder


@pytest.fixture(scope="session")
def onnx_file(run: Path) -> Path:
    """The same model in ONNX, with the rounds as an input, its tokenizer beside it."""
    path = run / "model.onnx"
    done = run_cli("compile", str(run), "--to", "onnx", "--rounds", "dynamic", "-o", str(path))
    assert done.status == 0, done.err
    return path


@pytest.fixture
def small_demo(corpus: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo of a model and a text that take it seconds."""
    from rinsc.cli import demo

    small = demo.DemoSettings(
        data=corpus,
        layers=2,
        width=16,
        heads=2,
        mlp_width=24,
        vocab_size=300,
        context=32,
        baseline_tokens=3000,
    )
    monkeypatch.setattr(demo, "DemoSettings", lambda: small)
    monkeypatch.setattr(demo, "QUICK_TOKENS", small.baseline_tokens)
