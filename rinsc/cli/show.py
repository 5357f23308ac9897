"""``rinsc show``: draws a model in the terminal and into files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions
from rinsc.cli.output import PIPED_WIDTH, note, print_note, print_result, result_stream
from rinsc.errors import UsageError


def show(
    model: ModelArgument,
    /,
    *,
    output: Annotated[
        tuple[Path, ...], Parameter(name=("--output", "-o"), show_default=False)
    ] = (),
    options: ModelOptions = NO_OPTIONS,
    json: bool = False,
) -> None:
    """Print a model's tree and schedule, and write drawings of it.

    Parameters
    ----------
    output
        A file to write, .svg, .png, .pdf, .mmd, .dot or .json by its ending; may be given again.
        PNG and PDF need matplotlib.
    json
        Print the graph as JSON in place of the drawing.
    """
    from rinsc.cost import block_params
    from rinsc.cost.params import adapter_share, heavy_note
    from rinsc.graph import BlockGraph, build_graph
    from rinsc.graph.draw import (
        FORMATS,
        PICTURES,
        Drawing,
        Drawn,
        Picture,
        schedule_lines,
        to_json,
        tree_lines,
    )
    from rinsc.storage.files import write_atomically

    drawings: dict[str, Drawing | Picture] = {**FORMATS, **PICTURES}
    for path in output:
        if path.suffix.lower() not in drawings:
            message = f"'{path.name}' does not end in a format that can be drawn"
            hint = f"use one of {', '.join(drawings)}"
            raise UsageError("unknown-format", message, place=str(path), hint=hint)
    spec = options.any_spec(model)
    graph: Drawn = build_graph(spec)
    towers = [graph] if isinstance(graph, BlockGraph) else list(graph.towers.values())
    counts = {name: count for tower in towers for name, count in block_params(tower).items()}
    for tower in towers:
        heavy = heavy_note(tower.spec, adapter_share(tower))
        if heavy is not None:
            note(heavy)
    for path in output:
        write_atomically(path, drawings[path.suffix.lower()](graph, counts))
        print_note(f"wrote {path}")
    if json:
        print_result(to_json(graph, counts), end="")
    else:
        width = shutil.get_terminal_size().columns if result_stream().isatty() else PIPED_WIDTH
        lines = [*tree_lines(graph, counts), "", *schedule_lines(graph, width)]
        for tower in towers:
            uneven = tower.spec.normal.uneven
            lines += [] if uneven is None else ["", f"uneven: {uneven}"]
        print_result("\n".join(lines))
