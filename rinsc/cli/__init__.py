"""The command ``rinsc``. Each subcommand is one file beside this one and one line in `COMMANDS`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from io import TextIOWrapper

from cyclopts import App, CycloptsError, Parameter

from rinsc.__about__ import __version__
from rinsc.cli.output import print_error, result_alone, warnings_as_notes
from rinsc.errors import OutputError, RinscError, settings_as_options

# Imported only when called: name, where the function is, what `rinsc --help` says about it.
COMMANDS: tuple[tuple[str, str, str], ...] = (
    ("check", "rinsc.cli.check:check", "Canonical spelling and fingerprint of models."),
    (
        "show",
        "rinsc.cli.show:show",
        "Draw a model: tree and schedule, SVG, PNG, PDF, Mermaid, DOT.",
    ),
    ("cost", "rinsc.cli.cost:cost", "Parameters, FLOPs and bytes; training that costs the same."),
    ("diff", "rinsc.cli.diff:diff", "How two models differ, or that they are the same model."),
    ("zoo", "rinsc.cli.zoo:zoo", "Published architectures, and variants by the thousand."),
    ("verify", "rinsc.cli.verify:verify", "Compile a small copy in every form and compare them."),
    ("compile", "rinsc.cli.compile:compile_", "Write a model as PyTorch source or as ONNX."),
    ("import", "rinsc.cli.import:import_", "A folder of transformers as a model of rinsc."),
    ("retrofit", "rinsc.cli.retrofit:retrofit", "A pretrained model runs layers again."),
    ("scan", "rinsc.cli.scan:scan", "Which layers of a pretrained model can run again."),
    ("presets", "rinsc.cli.presets:presets", "The dimensions that --preset stands for."),
    ("data", "rinsc.cli.data:data", "Corpora: those that packages carry; text as tokens."),
    ("train", "rinsc.cli.train:train", "Train a model on text or pictures."),
    ("eval", "rinsc.cli.eval:eval_", "Quality by rounds, tasks, and whether recursion paid off."),
    ("generate", "rinsc.cli.generate:generate_", "Continue a text with a trained model."),
    ("bench", "rinsc.cli.bench:bench_", "An exported model's speed, memory and quality by rounds."),
    ("study", "rinsc.cli.study:study", "Many runs from one plan, and what they show."),
    ("fit", "rinsc.cli.fit:fit_", "The scaling law of runs, and what it predicts."),
    ("demo", "rinsc.cli.demo:demo", "The whole path once: costs, training, ONNX, comparison."),
    ("doctor", "rinsc.cli.doctor:doctor", "What is installed, what really loads, what is broken."),
    ("completion", "rinsc.cli.completion:completion", "A script that completes words in a shell."),
)

INTERRUPTED = 130  # 128 + SIGINT, as shells say it
BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(tokens: Sequence[str] | None = None) -> int:
    """Run one command line, by default the process's own; returns the exit status.

    0 is success, 1 a mistake in the model (its text, its dimensions, its files) or a failed check,
    2 a mistake in the command or the value of another option. Without ``tokens`` a process
    that is one of several ends here.
    """
    status = _status(sys.argv[1:] if tokens is None else tokens)
    if tokens is None:
        _end_one_of_several(status)
    return status


def _status(tokens: Sequence[str]) -> int:
    """What becomes of a command line, said to the user and as the exit status."""
    _never_be_without_streams()
    _never_fail_to_encode()
    # A short spin: threads that wait longer take the cores from whoever else uses the machine (a
    # quarter of the speed beside one busy process), those that never spin are slow alone.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    try:
        with warnings_as_notes():
            status = _run(tokens)
        sys.stdout.flush()
    except RinscError as error:
        print_error(error)
        return error.exit_status
    except KeyboardInterrupt:
        with suppress(OSError):  # a terminal that was closed
            print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _discard_stdout()
        return BROKEN_PIPE
    except OSError as error:
        print_error(_system_error(error))
        _discard_stdout()
        return OutputError.exit_status
    return status


def _run(tokens: Sequence[str]) -> int:
    try:
        command, arguments, _ = app().parse_args(tokens, exit_on_error=False, print_error=False)
    except CycloptsError as error:
        from rinsc.cli.output import usage_error

        raise usage_error(error) from None
    if not command.__module__.startswith("rinsc."):  # the parser's own: --help and --version
        try:
            command(*arguments.args, **arguments.kwargs)
        except SystemExit:  # so rich ends where nobody reads
            raise BrokenPipeError from None
        return 0
    with result_alone(), settings_as_options():
        status: int | None = command(*arguments.args, **arguments.kwargs)
    return status or 0


def _end_one_of_several(status: int) -> None:
    processes = sys.modules.get("rinsc.backends.torch.processes")  # what joins others imports it
    if processes is not None and processes.process_count() > 1:
        processes.end_process(status)


def app() -> App:
    """The command line as cyclopts knows it, with nothing imported yet."""
    commands = App(
        name="rinsc",
        help="A compiler for recursive-depth neural networks.",
        version=__version__,
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    for index, (name, where, summary) in enumerate(COMMANDS):
        commands.command(where, name=name, help=summary, sort_key=index)
    return commands


def _system_error(error: OSError) -> OutputError:
    """What the operating system refuses where no command expects it: above all, standard output."""
    location = "standard output" if error.filename is None else str(error.filename)
    message = f"the system refuses: {(error.strerror or type(error).__name__).lower()}"
    hint = "check the place, its permissions and the free space"
    return OutputError("system-error", message, place=location, hint=hint)


def _never_be_without_streams() -> None:
    """A shell can close them (``>&-``); what is written to them then goes nowhere."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115


def _never_fail_to_encode() -> None:
    """A stream that cannot show a character shows an escape in its place."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _discard_stdout() -> None:
    """The reader is gone: what is still buffered must not fail again when Python exits."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
