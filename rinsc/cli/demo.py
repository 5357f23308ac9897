"""``rinsc demo``: the whole path once."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rinsc.cli.output import print_json, results_as_notes
from rinsc.extras import require

QUICK_TOKENS = 1 << 16


def demo(
    *,
    output: Annotated[Path, Parameter(name=("--output", "-o", "--out"))] = Path("runs/demo"),
    quick: bool = False,
    json: bool = False,
) -> None:
    """Train (A^3)B and AB at equal FLOPs, export to ONNX and compare.

    Parameters
    ----------
    output
        The run folder; everything that the demo writes stands there.
    quick
        A few steps only, to see the path and no result.
    json
        Print the result as JSON; the story goes to standard error.
    """
    require("torch", "safetensors", "onnx", "onnx_ir", "onnxruntime", "tokenizers", "matplotlib")
    from rinsc.cli.demo_story import DemoSettings, run_demo

    settings = DemoSettings()
    if quick:
        settings = replace(settings, baseline_tokens=QUICK_TOKENS)
    with results_as_notes() if json else nullcontext():
        summary = run_demo(output, settings)
    if json:
        print_json(summary)
