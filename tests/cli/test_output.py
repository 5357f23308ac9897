"""What a command prints where: one JSON document on standard output, whatever libraries print."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App
from hypothesis import example, given
from hypothesis import strategies as st
from transformers import LlamaConfig

from rinsc.cli import app
from rinsc.cli.output import print_table, result_alone, without_controls
from rinsc.data.corpora import Added
from tests.cli.command_line import run_cli
from tests.cli.conftest import TINY
from tests.sources import checkpoints

ROOT = Path(__file__).resolve().parents[2]
POINTS = ROOT / "tests" / "study" / "translation.csv"
STUDY = """
variants = ["A^2"]
baseline = "A"
data = "{corpus}"
seeds = [1, 2]
budgets = ["2steps"]
model = {{preset = "tiny", layers = 1, width = 16, heads = 2, vocab_size = 257, context = 16}}
settings = {{batch_sequences = 2, eval_windows = 2}}
"""

# A stranger's library in every way that there is to print: Python, a system call, C's own buffer,
# a child process, and a reference to standard output that was taken early.
NOISE = """
import ctypes, os, subprocess, sys
early = sys.stdout
libc = ctypes.CDLL(None)
def noise():
    print("noise of Python")
    early.write("early noise\\n")
    os.write(1, b"noise of a system call\\n")
    libc.puts(b"noise of C")
    libc.fflush(None)
    subprocess.run(["echo", "noise of a child"], check=True)
import rinsc.syntax.parser
parse = rinsc.syntax.parser.parse
def noisy(*given, **named):
    noise()
    return parse(*given, **named)
rinsc.syntax.parser.parse = noisy
import rinsc.syntax, rinsc.spec.reading
rinsc.syntax.parse = rinsc.spec.reading.parse = noisy
from rinsc.cli import main
sys.exit(main())
"""


def shell(*args: str, code: str = NOISE, **more: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False, **more
    )


@pytest.mark.parametrize(
    "args",
    [
        ("check", "(A^3)B"),
        ("check", "(A^3)B", "AB"),
        ("show", "(A^3)B"),
        ("cost", "(A^3)B", "--baseline", "AB"),
        ("diff", "A^3B", "AB"),
        ("zoo", "show", "etd"),
        ("zoo", "family", "rins"),
        ("verify", "A^2", "--layers", "1"),
    ],
    ids=" ".join,
)
def test_json_is_one_document_whatever_a_library_prints(args: tuple[str, ...]) -> None:
    done = shell(*args, "--json")
    assert done.returncode == 0, done.stderr
    json.loads(done.stdout)
    for kind in ("of Python", "of a system call", "of C", "of a child"):
        assert f"noise {kind}\n" in done.stderr
    assert "early noise\n" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ("zoo", "list"),
        ("zoo", "list", "--min-parameters", "1E"),
        ("zoo", "enumerate", "--letters", "2", "--length", "3"),
        ("data", "list"),
        ("presets",),
        ("doctor",),
    ],
    ids=" ".join,
)
def test_lists_are_one_document_too(args: tuple[str, ...]) -> None:
    json.loads(run_cli(*args, "--json").out)


def commands(app: App, *names: str) -> Iterator[tuple[str, ...]]:
    """Every command of the app by its words, those of groups too."""
    for name in app:
        if not name.startswith("-"):
            group = app[name]
            below = list(commands(group, *names, name))
            yield from below or [(*names, name)]


def test_every_command_prints_one_document(
    run: Path,
    corpus: str,
    onnx_file: Path,
    tmp_path: Path,
    small_demo: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All commands of the app: a new one needs its line here."""
    monkeypatch.setattr("rinsc.data.add.add", lambda entry: Added("1.0", entry.bytes, 3, "0" * 64))
    steps = ("--steps", "2", "--batch", "2", "--device", "cpu", "--data", corpus)
    measured = ("--prompt-tokens", "2", "--new-tokens", "2")
    prompt = ("--prompt", "On day", "--max-new-tokens", "2")
    study = tmp_path / "study.toml"
    study.write_text(STUDY.format(corpus=corpus))
    checkpoints.saved(tmp_path / "llama", LlamaConfig(**checkpoints.DIMENSIONS))
    plain = tmp_path / "plain"
    done = run_cli("train", "A", *TINY, *steps, "-o", str(plain))
    assert done.status == 0, done.err
    lines: list[tuple[str, ...]] = [
        ("check", "(A^3)B"),
        ("show", "(A^3)B", "-o", str(tmp_path / "model.svg")),
        ("cost", "(A^3)B"),
        ("diff", "A^3B", "AB"),
        ("zoo", "list"),
        ("zoo", "show", "etd"),
        ("zoo", "enumerate", "--letters", "2", "--length", "3"),
        ("zoo", "family", "rins"),
        ("verify", "A^2", "--layers", "1"),
        ("compile", str(run), "--to", "onnx", "-o", f"{tmp_path / 'folder'}/", "--no-report"),
        ("import", str(tmp_path / "llama"), "-o", str(tmp_path / "base")),
        ("retrofit", str(tmp_path / "base"), "A^2", "-o", str(tmp_path / "looped")),
        ("scan", str(plain), "--data", corpus, "--longest", "1", "--tokens", "8"),
        ("presets",),
        ("data", "list"),
        ("data", "add", "stdlib"),
        ("data", "prepare", corpus, "--vocab-size", "270"),
        ("train", "A", *TINY, *steps, "-o", str(tmp_path / "run")),
        ("eval", str(run), "--windows", "2", "-o", str(tmp_path / "eval.svg"), "--device", "cpu"),
        ("generate", str(run), *prompt),
        ("bench", str(onnx_file), *measured),
        ("demo", "--quick", "-o", str(tmp_path / "demo")),
        ("doctor",),
        ("completion", "bash"),
        ("fit", str(POINTS), "--plan"),
        ("study", "plan", str(study), "-o", str(tmp_path / "study")),
        ("study", "run", str(tmp_path / "study"), "--workers", "1"),
        ("study", "work", str(tmp_path / "study")),
        ("study", "status", str(tmp_path / "study")),
        ("study", "emit", str(tmp_path / "study"), "--as", "shell"),
        ("study", "report", str(tmp_path / "study")),
    ]
    every = set(commands(app()))
    groups = ("zoo", "data", "study")
    assert {line[: 2 if line[0] in groups else 1] for line in lines} == every
    for line in lines:
        done = run_cli(*line, "--json")
        assert done.status == 0, (line, done.err)
        assert isinstance(json.loads(done.out), dict | list), line


def test_the_document_of_a_run_is_one(
    run: Path, corpus: str, onnx_file: Path, tmp_path: Path
) -> None:
    folder, prompt = str(tmp_path / "m"), ("--prompt", "On day", "--max-new-tokens", "2")
    steps = ("--steps", "2", "--batch", "2", "--device", "cpu", "--data", corpus)
    training = ("train", "A", *TINY, *steps, "-o", f"{folder}-run")
    for args in (
        training,
        training,  # is finished by now
        ("eval", str(run), "--windows", "2", "-o", str(tmp_path / "e.svg")),
        ("bench", str(onnx_file), "--prompt-tokens", "2", "--new-tokens", "2"),
        ("generate", str(run), *prompt),
        ("generate", str(onnx_file), *prompt),
        ("compile", str(run), "--to", "onnx", "-o", folder + "/", "--no-report"),
        ("compile", str(run), "--to", "hf", "-o", folder + "-hf"),
        ("compile", str(run), "--to", "torch", "-o", folder + ".py"),
    ):
        done = run_cli(*args, "--json")
        assert done.status == 0, done.err
        assert isinstance(json.loads(done.out), dict), args


@pytest.mark.parametrize("args", [("check", "A^"), ("zoo", "show", "no"), ("check", "--bogus")])
def test_an_error_prints_nothing_on_standard_output(args: tuple[str, ...]) -> None:
    done = run_cli(*args, "--json")
    assert done.status in (1, 2)
    assert done.out == ""
    assert done.err.startswith("error[")


def test_json_has_no_infinity_and_escapes_what_a_stream_cannot_show(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    facts = {"a": float("inf"), "b": [float("nan"), 1.5], "c": "é\x1b\x9b\u202e\udcff😀"}
    monkeypatch.setattr("rinsc.cli.check._facts", lambda *_: facts)
    out = run_cli("check", "A", "--json").out
    strict: Any = json.loads(out, parse_constant=pytest.fail)
    assert strict == facts | {"a": None, "b": [None, 1.5]}
    assert not {"\x1b", "\x9b", "\u202e", "\udcff"} & set(out)


def test_standard_output_is_itself_again_afterwards() -> None:
    code = """
import os, sys
from rinsc.cli import main
stdout = sys.stdout
assert main(["check", "A"]) == 0 and main(["check", "A^"]) == 1
assert sys.stdout is stdout
print("after", flush=True); os.write(1, b"and a system call\\n")
"""
    done = shell(code=code)
    assert done.stdout.endswith("visits       1\nafter\nand a system call\n")


def test_the_result_is_alone_only_inside(capsys: pytest.CaptureFixture[str]) -> None:
    with result_alone(), result_alone():
        print("a library")
    print("a person")
    assert capsys.readouterr() == ("a person\n", "a library\n")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (("--rounds", "1", "--rounds", "2"), ("--rounds", "1,2")),
        (("--rounds", "A=1", "--rounds", "A=2"), ("--rounds", "A=1..2")),
    ],
)
def test_rounds_are_repeated_or_listed(
    run: Path, tmp_path: Path, left: tuple[str, ...], right: tuple[str, ...]
) -> None:
    rows = []
    for rounds in (left, right):
        args = ("eval", str(run), *rounds, "--windows", "2", "-o", str(tmp_path / "e.svg"))
        done = run_cli(*args, "--json")
        assert done.status == 0, done.err
        rows.append([row["rounds"] for row in json.loads(done.out)["rows"]])
    assert rows[0] == rows[1] == [{"A": 1}, {"A": 2}]


def test_other_options_are_repeated_or_listed(onnx_file: Path) -> None:
    for left, right in (
        (("check", "A^rB^s", "--set", "r=2", "--set", "s=3"), ("check", "A^rB^s", "--set=r=2,s=3")),
        (
            ("cost", "A^2B^2", "--rounds=A=3", "--rounds=B=4"),
            ("cost", "A^2B^2", "--rounds=A=3,B=4"),
        ),
    ):
        assert run_cli(*left) == run_cli(*right)
        assert run_cli(*left).status == 0
    lengths = ("--prompt-tokens", "2", "--new-tokens", "2", "--json")
    for rounds in (("--rounds", "1", "--rounds", "2"), ("--rounds", "1,2")):
        rows = json.loads(run_cli("bench", str(onnx_file), *rounds, *lengths).out)["rows"]
        assert [row["rounds"] for row in rows] == [{"A": 1}, {"A": 2}]


@pytest.mark.parametrize("way", [("--tasks", "a", "--tasks", "b"), ("--tasks", "a, b,a")])
def test_tasks_are_repeated_or_listed(
    run: Path, monkeypatch: pytest.MonkeyPatch, way: tuple[str, ...]
) -> None:
    pytest.importorskip("lm_eval")
    asked: list[object] = []

    def find_tasks(names: object, *_: object) -> None:
        asked.append(names)
        raise KeyboardInterrupt

    monkeypatch.setattr("rinsc.evaluation.evaluate.find_tasks", find_tasks)
    assert run_cli("eval", str(run), *way).status == 130
    assert asked == [["a", "b"]]


def test_trackers_are_checked_by_name(corpus: str, tmp_path: Path) -> None:
    out = ("-o", str(tmp_path / "run"))
    for way in (("--track", "paper"), ("--track", "tensorboard,paper")):
        done = run_cli("train", "A", *TINY, "--data", corpus, *out, *way)
        assert (done.status, done.out) == (2, "")
        assert "'paper' is not a tracker" in done.err


@given(st.text())
def test_no_control_character_is_left(text: str) -> None:
    shown = without_controls(text)
    for char in set(shown) - {"\n", "\t"}:
        assert unicodedata.category(char) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.bidirectional(char) not in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI")
    harmless = "".join(char for char in text if char.isprintable())
    assert without_controls(harmless) == harmless


ESCAPE = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e"


@pytest.mark.parametrize(
    "args",
    [
        ("check", f"A{ESCAPE}"),
        ("check", f"{ESCAPE}.toml"),
        ("cost", "A", "--preset", ESCAPE),
        ("check", "A", f"--{ESCAPE}"),
        (ESCAPE,),
        ("zoo", "show", ESCAPE),
        ("data", "add", ESCAPE),
        ("train", "A", "--data", f"text:{ESCAPE}", "-o", "x"),
        ("train", "A", "--data", ESCAPE, "-o", "x"),
        ("generate", ESCAPE, "--prompt", "x"),
        ("eval", ESCAPE),
        ("bench", ESCAPE),
        ("check", "A^n", "--set", f"n={ESCAPE}"),
        ("show", "A", "-o", f"x.{ESCAPE}"),
    ],
    ids=lambda args: " ".join(args).replace(ESCAPE, "ESC"),
)
def test_words_of_a_stranger_do_not_control_the_terminal(args: tuple[str, ...]) -> None:
    done = run_cli(*args)
    assert done.status != 0
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.out + done.err)


def test_the_values_of_a_file_do_not_control_the_terminal(tmp_path: Path) -> None:
    path = tmp_path / f"{ESCAPE.replace('/', '')}.toml"
    shown = json.dumps(ESCAPE)
    for key in ("signature", "preset", "kind", "layers", "none"):
        path.write_text(
            f'signature = "A"\npreset = "tiny"\n{shown} = 1\n'
            if key == "none"
            else f"preset2 = 1\n{key} = {shown}\n"
        )
        done = run_cli("check", str(path))
        assert done.status == 1
        assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", done.err)


def test_generated_controls_reach_files_but_no_terminal(run: Path) -> None:
    """The prompt is printed with what follows it."""
    clear = "\x1b[2J\x9b"
    args = ("generate", str(run), "--prompt", clear, "--max-new-tokens", "1")
    assert clear in run_cli(*args).out
    shown = terminal(*args)
    assert "[2J" in shown
    assert not {"\x1b", "\x9b"} & set(shown)


def terminal(*args: str) -> str:
    """What ``rinsc ARGS`` shows on a terminal."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "rinsc", *args], cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while select.select([ours], [], [], 120)[0]:
        try:
            data = os.read(ours, 4096)
        except OSError:  # the other end is closed
            break
        shown += data
    process.wait(timeout=60)
    os.close(ours)
    return shown.decode("utf-8", "replace")


@pytest.mark.parametrize(
    "args", [("zoo", "list"), ("zoo", "enumerate", "--letters", "4", "--length", "8"), ("--help",)]
)
@pytest.mark.parametrize("reader", ["head -1", "true"])
def test_a_reader_that_goes_is_no_error(args: tuple[str, ...], reader: str) -> None:
    command = f"set -o pipefail; {sys.executable} -m rinsc {' '.join(args)} | {reader}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, timeout=120)
    assert done.stderr == b""
    assert done.returncode in (0, 141)


_WORDS = st.lists(st.text("abcxyz,", min_size=1, max_size=30), max_size=8).map(" ".join)


@example([("A" * 40, "1" * 58, "baseline, may be the best"), ("B", "2", "x")])
@example([("A" * 10, "1" * 85, "baseline, may be the best")])
@given(st.lists(st.tuples(_WORDS, st.integers(0, 10**40).map(str), _WORDS), min_size=1, max_size=4))
def test_a_table_loses_no_word_and_no_digit(rows: list[tuple[str, str, str]]) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as output:
        print_table(("name", "number", ""), rows, left=(0, 2))
    assert Counter(output.getvalue().split()[3:]) == Counter(" ".join(sum(rows, ())).split())
