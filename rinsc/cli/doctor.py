"""``rinsc doctor``: what is installed, what really loads, and what to do about the rest."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from rinsc.cli.output import print_json, print_line, print_result_table, print_table
from rinsc.errors import render

if TYPE_CHECKING:
    from rinsc.backends.torch.distributed_check import GradientRow
    from rinsc.errors import Problem
    from rinsc.installation import Installation

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
    for table in installed.tables():
        print_result_table(table)
        print_line()
    for problem in problems:
        print_line(render(problem), style="red")
    if not problems:
        print_line("all that is installed works", style="bold green")
