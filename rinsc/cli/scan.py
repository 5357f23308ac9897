"""``rinsc scan``: which layers of a pretrained model can run again, and what it costs."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from rinsc.cli.output import CommandProgress, print_json, print_line, print_result_table
from rinsc.cli.values import Count, Output
from rinsc.extras import quick_imports


def scan(
    model: Path,
    /,
    *,
    data: str | None = None,
    longest: int = 8,
    times: int = 2,
    tokens: Count = 1024,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    output: Output = None,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Measure the loss of a pretrained model where a range of its layers runs again.

    Parameters
    ----------
    model
        A model folder, as rinsc import writes it, or a run whose blocks are visited once.
    data
        Held-out text of a corpus; that of the run if not given.
    longest
        The most layers of a range.
    times
        How often the range runs.
    tokens
        About how many tokens of the text are read.
    device
        Where to run; auto takes a GPU where there is one.
    output
        A page, scan.html, with the figures beside it as JSON. An interrupted scan goes on there.
    overwrite
        Begin again where the scan of another model or text stands.
    json
        Print JSON.
    """
    with quick_imports():
        from rinsc.evaluation.scan import scan as measure

    result = measure(
        *(model, data),
        longest=longest,
        times=times,
        tokens=tokens,
        device=device,
        output=output,
        overwrite=overwrite,
        progress=CommandProgress(),
    )
    if json:
        print_json(result.facts())
        return
    print_result_table(result.table)
    print_line(result.words)
