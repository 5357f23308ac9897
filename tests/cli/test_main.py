"""What every command shares: exit statuses, streams, colour, interruption."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from rinsc import __version__
from rinsc.cli import COMMANDS, main
from tests.cli.command_line import run_cli

ROOT = Path(__file__).resolve().parents[2]
NAMES = [name for name, _, _ in COMMANDS]


@pytest.mark.parametrize("command", ["check A", "zoo list", "cost AB", "show AB", "nonsense"])
def test_a_closed_standard_output_is_no_traceback(command: str) -> None:
    shell = f"exec {sys.executable} -m rinsc {command} >&-"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=120)
    assert done.returncode == (2 if command == "nonsense" else 0)
    assert "Traceback" not in done.stderr


def test_help_lists_every_command_in_order() -> None:
    status, out, err = run_cli("--help")
    assert (status, err) == (0, "")
    assert re.findall(r"│ ([a-z]+) ", out) == NAMES


def test_no_command_prints_help() -> None:
    assert run_cli() == run_cli("--help")


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_help(name: str) -> None:
    status, out, err = run_cli(name, "--help")
    assert (status, err) == (0, "")
    assert f"Usage: rinsc {name}" in out


@pytest.mark.parametrize(("name", "where"), [(name, where) for name, where, _ in COMMANDS])
def test_each_command_is_one_file_of_its_name(name: str, where: str) -> None:
    module, _, function = where.partition(":")
    assert module == f"rinsc.cli.{name}"
    assert callable(getattr(import_module(module), function))


@pytest.mark.parametrize("option", ["--output", "-o", "--out"])
def test_the_demo_takes_its_folder_as_the_others_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str
) -> None:
    seen: list[Path] = []

    def run(folder: Path, settings: object) -> dict[str, object]:
        seen.append(folder)
        return {}

    monkeypatch.setattr("rinsc.cli.demo.run_demo", run)
    assert run_cli("demo", option, str(tmp_path)).status == 0
    assert seen == [tmp_path]


def test_version() -> None:
    assert run_cli("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["chek", "A"], "hint: did you mean 'check'?"),
        (["trian", "A"], "hint: did you mean 'train'?"),
        (["quux"], "demo, doctor"),
        (["help"], "hint: did you mean '--help'?"),
        (["--verison"], "hint: did you mean '--version'?"),
        (["check", "A", "--leyers=3"], "hint: did you mean '--layers'?"),
        (["check", "A", "-layers", "3"], "hint: did you mean '--layers'?"),
        (["check", "A", "--mlp_widht", "3"], "hint: did you mean '--mlp-width'?"),
        (
            ["check", "A", "--bogus"],
            "no option '--bogus'\n  hint: see rinsc check --help",
        ),
        (["check", "A", "--layers"], "--layers requires an argument"),
        (["check", "A", "--layers", "many"], "Invalid value for --layers"),
        (["check", "A", "--width", "1.5"], "1.5 is not a whole number"),
        (["check"], "no model is given"),
        (["cost"], "MODEL requires an argument"),
        (["cost", "A", "B"], "rinsc cost has no use for 'B'"),
        (["cost", "A", "--causal", "hlf"], 'hint: did you mean "half"?'),
        (["compile", "A", "-o", "x.py"], "--to requires an argument"),
    ],
)
def test_a_mistake_in_the_command_is_status_2(args: list[str], says: str) -> None:
    status, out, err = run_cli(*args)
    assert (status, out) == (2, "")
    assert err.startswith("error[usage]: ")
    assert says in err
    assert "hint: " in err


def test_an_error_is_coloured_on_a_terminal_only(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    assert main(["check", "A^0"]) == 1
    shown = terminal.getvalue()
    assert "\x1b[" in shown
    plain = run_cli("check", "A^0").err
    assert re.sub(r"\x1b\[[0-9;]*m", "", shown) == plain
    assert "\x1b[" not in plain


def test_an_interruption_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("rinsc.syntax.parser.parse", interrupted)
    assert run_cli("check", "A") == (130, "", "interrupted\n")


def test_a_closed_pipe_is_quiet() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "rinsc", "check", *["(A^3)B"] * 5000],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=120) == 141


def test_a_terminal_without_the_characters_still_gets_an_answer() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rinsc", "show", "(A^3)B"],
        cwd=ROOT,
        env={"PYTHONIOENCODING": "ascii:strict", "PATH": ""},
        capture_output=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"repeat A" in done.stdout


@pytest.mark.parametrize(
    ("library", "extra", "args"),
    [
        ("torch", "torch", ["verify", "A"]),
        ("torch", "torch", ["compile", "A", "--to", "torch", "-o", "x.py"]),
        ("onnx_ir", "onnx", ["compile", "A", "--to", "onnx", "-o", "x.onnx"]),
        ("tokenizers", "train", ["train", "A", "--data", "plays", "-o", "x"]),
        ("onnxruntime", "cpu", ["generate", "x.onnx", "--prompt", "x"]),
        ("matplotlib", "draw", ["demo"]),
    ],
)
def test_a_missing_library_names_its_extra(
    tmp_path: Path, library: str, extra: str, args: list[str]
) -> None:
    """In a process of its own: a module that another test imported would hide what is missing."""
    script = f"import sys; sys.modules[{library!r}] = None; from rinsc.cli import main"
    done = subprocess.run(
        [sys.executable, "-c", f"{script}; sys.exit(main({args!r}))"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error[missing-extra]: this needs the library {library}\n"
        f"  hint: pip install 'rinsc[{extra}]'\n"
    )
    assert list(tmp_path.iterdir()) == []
