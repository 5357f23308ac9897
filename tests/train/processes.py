"""``rinsc`` in processes of their own, which a test may kill at any moment.

They are forked from a server that has the libraries loaded, so that each starts at once.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

SECONDS = 120  # after which a process is taken to hang
PRELOADED = ["tests.train.processes", "rinsc.cli.train", "rinsc.training.run", "rinsc.data.cache"]


@dataclass(frozen=True)
class Command:
    """A running ``rinsc ARGS``, its output in files."""

    process: BaseProcess
    out: Path
    err: Path

    def wait(self) -> int:
        """Exit status, or minus the signal that killed it; fails the test where it hangs."""
        self.process.join(SECONDS)
        hangs = self.process.is_alive()
        if hangs:
            self.process.kill()
            self.process.join()
        assert not hangs, f"hangs: {self.err.read_text()}"
        assert self.process.exitcode is not None
        return self.process.exitcode

    def until(self, holds: Callable[[], bool]) -> bool:
        """Waits for something, closely; False where the process ended before."""
        deadline = time.monotonic() + SECONDS
        while not holds():
            if not self.process.is_alive():
                return False
            assert time.monotonic() < deadline, self.err.read_text()
            time.sleep(0.0005)
        return True

    def send(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid or 0, number)


@contextlib.contextmanager
def started(
    folder: Path,
    *args: str,
    file_size: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Command]:
    """``rinsc ARGS`` in a process that is gone when the block ends; its output lies in ``folder``.

    ``file_size`` limits the bytes of every file that it writes, as a full disk would.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    folder.mkdir(parents=True, exist_ok=True)
    out, err = folder / "out.txt", folder / "err.txt"
    given = (args, out, err, file_size, environment or {})
    process = context.Process(target=_run, args=given)
    process.start()
    try:
        yield Command(process, out, err)
    finally:
        process.kill()
        process.join()


def run(folder: Path, *args: str, file_size: int | None = None) -> tuple[int, str, str]:
    """Status, output and errors of ``rinsc ARGS``."""
    with started(folder, *args, file_size=file_size) as command:
        status = command.wait()
        return status, command.out.read_text(), command.err.read_text()


def _run(
    args: Sequence[str],
    out: Path,
    err: Path,
    file_size: int | None,
    environment: Mapping[str, str],
) -> None:
    import resource

    import torch

    from rinsc.cli import main

    torch.set_num_threads(1)
    os.environ.update(environment)
    for number, path in ((1, out), (2, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    if file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    status = main(args)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
