"""``rinsc compile``: a model as Python source that imports torch alone, or as ONNX."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rinsc.cli.diagnostics import note
from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions
from rinsc.cli.numbers import rounded_bytes
from rinsc.cli.runs import is_run, open_run
from rinsc.cli.values import RoundsOption, Seed, option_values, parse_rounds
from rinsc.errors import Problem, UsageError
from rinsc.extras import require
from rinsc.files import check_writable, write_atomically

if TYPE_CHECKING:
    from rinsc.backends.onnx import RoundsForm
    from rinsc.graph import Rounds
    from rinsc.spec import ModelSpec


def compile_(
    model: ModelArgument,
    /,
    *,
    to: Literal["torch", "onnx"],
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    options: ModelOptions = NO_OPTIONS,
    rounds: RoundsOption = (),
    cache: bool = False,
    weights: Path | None = None,
    seed: Seed = 0,
) -> None:
    """Write a model as PyTorch source or as an ONNX file.

    Parameters
    ----------
    to
        The form to write.
    output
        The file to write.
    rounds
        Write so many rounds out, as 3, or A=2 for one repeat; dynamic makes them a run-time input.
        If not given: run-time in PyTorch, as the signature writes them in ONNX.
    cache
        The form that continues sequences: it is given past keys and values, and gives them back.
    weights
        A safetensors file for ONNX; if not given, a run's own, else fresh ones.
    seed
        Of fresh weights.
    """
    folder = open_run(model) if is_run(model) else None
    spec = options.spec(model)
    dynamic = rounds == ("dynamic",)
    asked = None if dynamic else parse_rounds(rounds)
    _check_rounds(spec, asked)
    check_writable(output)
    if weights is None and folder is not None:
        weights = folder.weights
    if to == "torch":
        if weights is not None and folder is None:
            message = "PyTorch source holds no weights"
            hint = "leave --weights out; Model().load_state_dict takes them at run time"
            raise UsageError(Problem("usage", message, hint=hint))
        _write_source(spec, output, asked, cache)
    else:
        _write_onnx(spec, output, "dynamic" if dynamic else asked, cache, weights, seed)
    print(f"wrote {output} ({rounded_bytes(output.stat().st_size)})", file=sys.stderr)


def _check_rounds(spec: ModelSpec, rounds: Rounds) -> None:
    from rinsc.graph import build_graph, resolve_rounds

    graph = build_graph(spec)
    with option_values():
        resolve_rounds(graph, rounds)


def _write_source(spec: ModelSpec, output: Path, rounds: Rounds, cache: bool) -> None:
    require("torch")
    from rinsc.backends.torch import emit_source
    from rinsc.graph import build_graph, unroll

    graph = build_graph(spec)
    graph = graph if rounds is None else unroll(graph, rounds)
    write_atomically(output, emit_source(graph, cached=cache))


def _write_onnx(
    spec: ModelSpec, output: Path, rounds: RoundsForm, cache: bool, weights: Path | None, seed: int
) -> None:
    require("torch", "safetensors", "onnx_ir")
    import torch

    from rinsc.backends.onnx import to_onnx
    from rinsc.backends.torch import load_weights, to_torch
    from rinsc.backends.torch.weights import open_weights

    if weights is not None:
        with open_weights(weights):
            pass  # a file that cannot be read is told before the model is built

    torch.manual_seed(seed)
    module = to_torch(spec)
    if weights is not None:
        load_weights(module, weights)
    to_onnx(module, rounds, cache=cache).save(output)
    if weights is None:
        note("no weights were given; the model has fresh, untrained ones")
