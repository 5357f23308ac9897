"""One command line run in this process, as the shell would see it."""

from __future__ import annotations

import io
from contextlib import redirect_stderr, redirect_stdout
from typing import NamedTuple

from rinsc.cli import main


class Result(NamedTuple):
    """What a shell sees of a command."""

    status: int
    out: str
    err: str


def run_cli(*args: str) -> Result:
    """Exit status, standard output and standard error of ``rinsc ARGS``."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = main(args)
    return Result(status, out.getvalue(), err.getvalue())
