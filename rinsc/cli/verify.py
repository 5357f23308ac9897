"""``rinsc verify``: one model in every form, compared."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions
from rinsc.cli.output import print_json, print_line, print_table
from rinsc.cli.values import Seed
from rinsc.extras import require

if TYPE_CHECKING:
    from rinsc.verification import VerifyRow

FAILED = 1


def verify(
    model: ModelArgument,
    /,
    *,
    options: ModelOptions = NO_OPTIONS,
    seed: Seed = 0,
    json: bool = False,
) -> int:
    """Compile a small copy of a model in every form and print what equals what, by how much.

    The exit status is 1 where two forms differ by more than they may.

    Parameters
    ----------
    seed
        Of the weights and the tokens.
    json
        Print JSON: one object with the key rows.
    """
    spec = options.any_spec(model)
    require("torch", "safetensors", "onnx", "onnx_ir", "onnxruntime")
    from rinsc.verification import verify as compare

    rows = compare(spec, seed=seed)
    failed = sum(not row.passed for row in rows)
    if json:
        document = {
            "signature": spec.text,
            "passed": not failed,
            "rows": [_facts(row) for row in rows],
        }
        print_json(document)
        return FAILED if failed else 0
    print_table(
        ("", "equals", "in", "differs by", "limit", ""),
        [
            (
                row.left,
                row.right,
                row.measure,
                _number(row.value),
                _number(row.limit),
                "ok" if row.passed else "!FAILED",
            )
            for row in rows
        ],
        left=(0, 1, 2, 5),
    )
    print_line()
    if failed:
        print_line(f"{failed} of {len(rows)} comparisons failed", style="bold red")
        return FAILED
    print_line(f"all {len(rows)} comparisons hold for {spec.text}", style="bold green")
    return 0


def _facts(row: VerifyRow) -> dict[str, object]:
    """A row as plain data; JSON has no NaN."""
    value = row.value if math.isfinite(row.value) else None
    return asdict(row) | {"value": value, "passed": row.passed}


def _number(value: float) -> str:
    return "0" if value == 0 else f"{value:.1e}"
