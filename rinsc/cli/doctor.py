"""``rinsc doctor``: what is installed, what really loads, and what to do about the rest."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from rinsc.cli.output import print_json, print_line, print_table
from rinsc.errors import render

if TYPE_CHECKING:
    from rinsc.backends.torch.distributed_check import GradientRow
    from rinsc.errors import Problem
    from rinsc.installation import Installation, Library

FAILED = 1


def doctor(*, distributed: bool = False, json: bool = False) -> int:
    """Print what is installed, which providers really load, and what is broken.

    The exit status is 1 where something is.

    Parameters
    ----------
    distributed
        Check instead that two processes on this machine compute the gradients of one.
    json
        Print JSON.
    """
    if distributed:
        return _check_gradients(json)
    from rinsc.installation import installation

    installed = installation()
    problems = installed.problems()
    if json:
        listed = [{"code": p.code, "message": p.message, "hint": p.hint} for p in problems]
        document = asdict(installed) | {"problems": listed}
        print_json(document)
    else:
        _print(installed, problems)
    return FAILED if problems else 0


def _check_gradients(json: bool) -> int:
    """Compare and print; the exit status."""
    from rinsc.extras import require

    require("torch", "safetensors")
    from rinsc.backends.torch.distributed_check import check_gradients

    rows = check_gradients()
    passed = all(row.passed for row in rows)
    if json:
        facts = [_row_facts(row) for row in rows]
        print_json({"passed": passed, "rows": facts})
        return 0 if passed else FAILED
    print_table(
        ("two processes against one, gradients", "differ by", "limit", ""),
        [(row.what, f"{row.difference:.1e}", f"{row.limit:.0e}", _mark(row)) for row in rows],
        left=(0, 3),
    )
    return 0 if passed else FAILED


def _mark(row: GradientRow) -> str:
    return "ok" if row.passed else "!FAILED"


def _row_facts(row: GradientRow) -> dict[str, object]:
    """A row as plain data; JSON has no infinity."""
    difference = row.difference if math.isfinite(row.difference) else None
    return asdict(row) | {"difference": difference, "passed": row.passed}


def _print(installed: Installation, problems: list[Problem]) -> None:
    rows = [_row(library, installed.advised.get(library.name)) for library in installed.libraries]
    print_table(("library", "installed", "needed", "extras", ""), rows, left=(0, 1, 2, 3, 4))
    print_line()
    print_table(("here", ""), _facts(installed), left=(0, 1))
    print_line()
    for problem in problems:
        print_line(render(problem), style="red")
    if not problems:
        print_line("all that is installed works", style="bold green")


def _row(library: Library, extra: str | None) -> tuple[str, str, str, str, str]:
    extras = ", ".join(name or "base" for name in library.extras) or "-"
    needed = f">={library.minimum}" if library.minimum else "any"
    if library.version is None:
        advice = "" if extra is None else f"pip install 'rinsc[{extra}]'"
        return library.name, "-", needed, extras, advice
    state = "!too old" if library.is_too_old else "ok"
    if library.broken is not None:
        state = "!does not import"
    return library.name, library.version, needed, extras, state


def _facts(installed: Installation) -> list[tuple[str, str]]:
    """The lines below the libraries: what each is, and what it is like here."""
    facts = [
        ("Python", installed.python),
        ("rinsc", installed.rinsc),
        ("cores", str(installed.cores)),
    ]
    for provider in installed.providers:
        status = "loads" if provider.reason is None else f"does not load: {provider.reason}"
        mark = "!" if provider.expected and provider.reason is not None else ""
        facts.append((f"ONNX Runtime on {provider.name}", mark + status))
    if installed.torch is not None:
        build = installed.torch.cuda_build
        status = ", ".join(installed.torch.devices) or "no device"
        facts.append(("PyTorch", "a CPU build" if build is None else f"CUDA {build}, {status}"))
    return facts
