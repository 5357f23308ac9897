"""Every mistake ends in one clear error at the right place, quickly and without side effects."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rinsc.training.run_folder import RunFolder
from tests.cli.command_line import run_cli
from tests.cli.conftest import SIGNATURE, TINY

ROOT = Path(__file__).resolve().parents[2]

TEXTS = [
    ("", "empty-signature", None),
    ("  ", "empty-signature", None),
    ("A$B", "unexpected-character", " ^"),
    ("(A^3B", "unbalanced-parenthesis", "^"),
    ("A)", "unbalanced-parenthesis", " ^"),
    ("A^0", "bad-power", "  ^"),
    ("A^-1", "bad-power", "  ^^"),
    ("^3", "missing-block", "^"),
    ("A^99999999999", "power-too-large", "  ^^^^^^^^^^^"),
    ("(" * 10_000, "text-too-long", None),
    ("(" * 4_000, "too-deep", None),
    ("(((A^999)^999)^999)B", "too-many-visits", "  ^^^^^^^^^^^"),
    ("A^rB", "unbound-exponent", "^^^"),
    ("A^3{skp=0.5}", "unknown-option", "    ^^^"),
    ("A^3{skip=1}", "bad-option-value", "    ^^^^^^"),
    ("A^3{sample=uniform(0, 4)}", "bad-option-value", "    ^^^^^^^^^^^^^^^^^^^^"),
    ("A^3{init=noise}B", "contradicting-options", "    ^^^^^^^^^^"),
    ("A^3{grad=5}B", "contradicting-options", "    ^^^^^^"),
    ("A^3{skip=0.5, sample=choice(1, 2)}", "contradicting-options", None),
    ("A{kind=gpt}A{kind=llama}", "conflicting-options", "             ^^^^^^^^^^"),
    ("A{tie=all}", "bad-option-value", "  ^^^^^^^"),
    ("A[2]B@3", "layers-do-not-split", "^^^^"),
    ("aB", "unexpected-character", "^"),
    ("ab", "unexpected-character", "^^"),
]


@pytest.mark.parametrize(("text", "code", "carets"), TEXTS, ids=[code for _, code, _ in TEXTS])
@pytest.mark.parametrize("command", ["check", "show", "cost", "verify"])
def test_bad_text_points_at_the_place(
    command: str, text: str, code: str, carets: str | None
) -> None:
    start = time.monotonic()
    status, out, err = run_cli(command, text)
    assert time.monotonic() - start < 10  # seconds; the libraries are loaded meanwhile
    assert (status, out) == (1, "")
    assert err.startswith(f"error[{code}]: ")
    assert "Traceback" not in err
    assert max(map(len, err.splitlines())) < 200
    if carets is not None:
        lines = err.splitlines()
        assert f"  {text}" == lines[1]
        assert f"  {carets}" == lines[2]


def test_the_shell_sees_the_same(tmp_path: Path) -> None:
    for text, code in (("A^0", "bad-power"), ("(" * 10_000, "text-too-long")):
        done = subprocess.run(
            [sys.executable, "-m", "rinsc", "cost", text],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith(f"error[{code}]: ")


def test_three_mistakes_in_a_file_are_reported_together(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text('signature = "A^0B"\npreset = "tiny"\nheds = 4\nwidth = 65\nmlp_width = "x"\n')
    status, out, err = run_cli("cost", str(path))
    assert (status, out) == (1, "")
    for code, key in (
        ("bad-power", "signature"),
        ("unknown-key", "heds"),
        ("bad-type", "mlp_width"),
        ("does-not-divide", "heads"),
    ):
        assert f"error[{code}]: " in err
        assert f"  at {path}: {key}\n" in err


@pytest.mark.parametrize(
    ("args", "code", "status"),
    [
        (["check", "nope.toml"], "spec-not-readable", 1),
        (["check", "AB", "--preset", "tny"], "unknown-preset", 1),
        (["check", "AB", "--kind", "lama"], "unknown-kind", 1),
        (["check", "AB", "--layers", "5", "--strict"], "layers-do-not-split", 1),
        (["check", "AAB@2", "--layers", "3"], "layers-do-not-split", 1),
        (["check", "A^3{adapter=lora(65)}", "--preset", "tiny"], "rank-above-width", 1),
        (["check", "A{kind=lama}", "--preset", "tiny"], "unknown-kind", 1),
        (["check", "AB", "--layers", "9" * 5000], "usage", 2),
        (["check", "AB", "--width", str(10**15)], "bad-value", 1),
        (["check", "A^rB", "--set", "r"], "usage", 2),
        (["check", "A^rB", "--set", "r=3", "--set", "r=4"], "usage", 2),
        (["check", "A^rB", "--set", "r=0"], "bad-power", 1),
        (["check", "AB", "--set", "q=1"], "unknown-exponent", 1),
        (["cost", "A^2", "--rounds", "0"], "bad-rounds", 2),
        (["cost", "A^2", "--rounds", "C=1"], "unknown-repeat", 2),
        (["cost", "A^2", "--rounds", "A"], "bad-rounds", 2),
        (["cost", "AB", "--rounds", "2"], "unknown-repeat", 2),
        (["cost", "AB", "--seq", "0"], "bad-count", 2),
        (["cost", "AB", "--seq", "500"], "beyond-context", 2),
        (["cost", "AB", "--baseline", "A^"], "bad-power", 1),
        (["cost", "AB", "--baseline", "A", "--tokens", "5"], "budget-too-small", 2),
        (["cost", "AB", "--baseline", "A", "--batch-tokens", "100"], "bad-batch", 2),
        (["cost", "A^2", "--baseline", "A", "--rounds", "3"], "usage", 2),
        (["cost", "AB", "--set", "q=1"], "unknown-exponent", 1),
        (["check", "A^rB", "AB", "--set", "r=2", "--set", "q=1"], "unknown-exponent", 1),
        (["check", "A^rB", "AB", "--set", "q=1"], "unknown-exponent", 1),
        (["check", "A^rB", "A^sB", "--set", "r=2"], "unbound-exponent", 1),
        (["verify", "AB", "--seed", "9" * 23], "usage", 2),
        (["verify", "AB", "--seed", str(2**63)], "usage", 2),
        (["compile", "AB", "--to", "onnx", "-o", "x.onnx", "--seed", "9" * 23], "usage", 2),
        (["compile", "AB", "--to", "onnx", "-o", "x.onnx", "--seed=-1"], "usage", 2),
        (["show", "AB", "-o", "x.gif"], "unknown-format", 2),
        (["compile", "AB", "--to", "torch", "-o", "x.py", "--weights", "w"], "usage", 2),
        (["compile", "AB", "--to", "torch", "-o", "x.py", "--rounds", "2"], "unknown-repeat", 2),
        (["compile", "A^2", "--to", "onnx", "-o", "x.onnx", "--rounds", "0"], "bad-rounds", 2),
        (["compile", "AB", "--to", "onnx", "-o", "x.onnx", "--weights", "w"], None, 1),
        (["compile", "runs/none", "--to", "onnx", "-o", "x.onnx"], "not-a-run", 1),
        (["train", "AB", "--data", "nope", "-o", "r"], "unknown-corpus", 1),
        (["train", "AB", "--data", "text:nope", "-o", "r"], "no-such-path", 1),
        (["train", "AB", "--data", "plays", "-o", "r", "--steps", "0"], "budget-too-small", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--lr", "nan"], "bad-config", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--rounds", "2"], "unknown-repeat", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--seq", "999"], "beyond-context", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--tokens", "5"], "budget-too-small", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--steps=1", "--tokens=1"], "usage", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--lr=-1"], "bad-config", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--seed=-1"], "usage", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--batch", "0"], "bad-config", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--rounds", "A=x"], "bad-rounds", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--resume"], "usage", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--budget", "1e3 tons"], "usage", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--budget=9", "--steps=9"], "usage", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--budget", "9"], "budget-too-small", 2),
        (["train", "A^3", "--data", "plays", "-o", "r", "--match", "A^"], "bad-power", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--rounds-schedule", "1"], "usage", 2),
        (
            ["train", "A^2", "--data", "plays", "-o", "r", "--rounds-schedule", "2@9%"],
            "bad-config",
            2,
        ),
        (
            ["train", "AB", "--data", "plays", "-o", "r", "--rounds-schedule", "2@0"],
            "unknown-repeat",
            2,
        ),
        (["train", "AB", "--data", "plays", "-o", "r", "--accumulate", "3"], "bad-config", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--keep", "0"], "bad-config", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--optimizer", "sgd"], "usage", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--lr-visits-power=2"], "bad-config", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--shard"], "one-process", 2),
        (["train", "AB", "--data", "plays", "-o", "r", "--track", "paper"], "usage", 2),
        (["generate", "nope", "--prompt", "\udcff"], "usage", 2),
        (["generate", "nope", "--prompt", "x", "--rounds", "A"], "bad-rounds", 2),
        (["generate", "nope", "--prompt", "x", "--seed", "9" * 23], "usage", 2),
        (["generate", "nope", "--prompt", "x"], "not-a-model", 1),
        (["generate", "nope.onnx", "--prompt", "x"], "no-such-file", 1),
        (["generate", "nope", "--prompt", ""], "usage", 2),
        (["generate", "nope", "--prompt", "x", "--top-k", "0"], "bad-sampling", 2),
        (["generate", "nope", "--prompt", "x", "--max-new-tokens", "-1"], "usage", 2),
    ],
)
def test_bad_arguments_leave_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, args: list[str], code: str | None, status: int
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_cli(*args)
    assert (result.status, result.out) == (status, "")
    told = result.err.splitlines()
    told = told[told[0].startswith("rinsc train: ") :]  # what would be spent may come before
    assert told[0].startswith(f"error[{code or ''}")
    assert "Traceback" not in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "args",
    [
        ["show", "AB", "-o"],
        ["compile", "AB", *TINY, "--to", "torch", "-o"],
        ["compile", "AB", *TINY, "--to", "onnx", "-o"],
    ],
    ids=["show", "torch", "onnx"],
)
class TestUnwritableOutput:
    def test_no_folder(self, tmp_path: Path, args: list[str]) -> None:
        status, out, err = run_cli(*args, str(tmp_path / "no" / "x.svg"))
        assert (status, out) == (1, "")
        assert "error[cannot-write]" in err
        assert f"create the folder {tmp_path / 'no'} first" in err

    def test_a_folder_in_the_way(self, tmp_path: Path, args: list[str]) -> None:
        (tmp_path / "x.svg" / "model.onnx").mkdir(parents=True)  # of ONNX, a folder takes a model
        status, out, err = run_cli(*args, str(tmp_path / "x.svg"))
        assert (status, out) == (1, "")
        assert "error[cannot-write]" in err

    def test_the_old_file_survives_a_full_disk(self, tmp_path: Path, args: list[str]) -> None:
        target = tmp_path / "x.svg"
        target.write_text("old")
        command = [sys.executable, "-m", "rinsc", *args, str(target)]
        done = subprocess.run(
            ["bash", "-c", 'ulimit -f 1; exec "$@"', "bash", *command],
            cwd=ROOT,
            env={"PYTHONDONTWRITEBYTECODE": "1", "PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr.startswith("error[cannot-write]: cannot write: file too large")
        assert target.read_text() == "old"
        assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize(
    "args",
    [
        ["-o", "no/x.onnx"],
        ["-o", "/dev/null"],
        ["-o", "x.onnx", "--weights", "none.safetensors"],
        ["-o", "x.onnx", "--weights", "short.safetensors"],
        ["-o", "x.onnx", "--rounds", "C=2"],
    ],
    ids=["folder", "device", "no weights", "weights cut short", "rounds"],
)
def test_a_file_that_will_fail_is_told_before_the_model_is_built(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run: Path, args: list[str]
) -> None:
    def too_early(*_: object, **__: object) -> None:
        raise AssertionError("the model was built")

    whole = RunFolder(run).weights.read_bytes()
    (tmp_path / "short.safetensors").write_bytes(whole[: len(whole) // 2])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rinsc.backends.torch.to_torch", too_early)
    status, out, err = run_cli("compile", SIGNATURE, *TINY, "--to", "onnx", *args)
    assert (status, out) == (2 if "--rounds" in args else 1, "")
    assert err.startswith("error[")
    assert "Traceback" not in err
    with pytest.raises(AssertionError):
        run_cli("compile", SIGNATURE, *TINY, "--to", "onnx", "-o", "x.onnx")


def test_standard_output_that_is_full_is_an_error() -> None:
    for args in (["check", "A"], ["cost", "A"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "rinsc", *args],
                cwd=ROOT,
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                timeout=120,
            )
        assert done.returncode == 1
        assert done.stderr.startswith("error[system-error]: ")
        assert "no space left" in done.stderr
        assert len(done.stderr.splitlines()) == 3


def test_codes_of_terminals_are_not_passed_on(tmp_path: Path) -> None:
    status, _, err = run_cli("cost", f"{tmp_path}/\x1b[31mred\n.toml")
    assert status == 1
    assert "\x1b" not in err
    assert len(err.splitlines()) == 3


def test_weights_cut_short_or_of_another_model(run: Path, tmp_path: Path) -> None:
    target, weights = tmp_path / "model.onnx", tmp_path / "weights.safetensors"
    whole = RunFolder(run).weights.read_bytes()
    export = ("--to", "onnx", "-o", str(target), "--weights", str(weights))
    weights.write_bytes(whole[: len(whole) // 2])
    status, _, err = run_cli("compile", SIGNATURE, *TINY, *export)
    assert status == 1
    assert err.startswith("error[weights-not-readable]: ")
    weights.write_bytes(whole)
    status, _, err = run_cli("compile", "A^3B", *TINY, *export)
    assert status == 1
    assert err.startswith("error[weights-of-another-model]: ")
    assert str(weights) in err
    assert not target.exists()


def test_a_damaged_onnx_file(onnx_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(onnx_file.read_bytes()[:1000])
    status, out, err = run_cli("generate", str(path), "--prompt", "On")
    assert (status, out) == (1, "")
    assert err.startswith("error[damaged-model]: ")


def test_no_rounds_at_all(run: Path, onnx_file: Path) -> None:
    for model in (run, onnx_file):
        for rounds, code in (("0", "bad-rounds"), ("C=1", "unknown-repeat")):
            args = ("--prompt", "On", "--rounds", rounds)
            status, out, err = run_cli("generate", str(model), *args)
            assert (status, out) == (2, "")
            assert err.startswith(f"error[{code}]: ")


def test_a_tokenizer_that_is_missing_or_of_another_model(onnx_file: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone.onnx"
    alone.write_bytes(onnx_file.read_bytes())
    status, _, err = run_cli("generate", str(alone), "--prompt", "On")
    assert status == 2
    assert err.startswith("error[no-tokenizer]: ")
    (tmp_path / "tokenizer.json").write_text("{}")
    status, _, err = run_cli("generate", str(alone), "--prompt", "On")
    assert status == 1
    assert err.startswith("error[bad-tokenizer]: ")


@pytest.mark.parametrize(
    "name",
    [
        *("model.toml", "train.toml", "data.json", "result.json", "checksums.json"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
        *("generation_config.json", "config.json"),
    ],
)
def test_a_pipe_in_a_run_is_not_waited_for(run: Path, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    shutil.copytree(run, folder)
    (folder / name).unlink(missing_ok=True)
    os.mkfifo(folder / name)

    def waited(*_: object) -> None:
        raise AssertionError(f"waits for the pipe {name}")

    before = signal.signal(signal.SIGALRM, waited)
    signal.alarm(30)
    try:
        for command in (("generate", str(folder), "--prompt", "x"), ("eval", str(folder))):
            done = run_cli(*command, *(("--max-new-tokens", "1") if "x" in command else ()))
            assert done.status in (0, 1)
            assert "Traceback" not in done.err
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
