"""``rinsc compile``: a model as Python source, as ONNX, or as a folder for transformers."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rinsc.cli.compile_hf import FolderRequest, compile_hf, refuse_onnx_options
from rinsc.cli.compile_onnx import Request, compile_onnx
from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions
from rinsc.cli.numbers import rounded_bytes
from rinsc.cli.old_folder import hf_form, in_place_of, onnx_form
from rinsc.cli.onnx_options import NO_ONNX_OPTIONS, OnnxOptions
from rinsc.cli.output import print_json, print_note
from rinsc.cli.runs import is_run, open_run, own_rounds
from rinsc.cli.values import RoundsOption, Seed, option_values, parse_rounds
from rinsc.errors import Problem, UsageError
from rinsc.extras import require
from rinsc.storage.files import check_writable, write_atomically

if TYPE_CHECKING:
    from rinsc.backends.onnx import RoundsForm
    from rinsc.graph import Rounds
    from rinsc.spec import ModelSpec


def compile_(
    model: ModelArgument,
    /,
    *,
    to: Literal["torch", "onnx", "hf"],
    output: Annotated[str, Parameter(name=("--output", "-o"))],
    options: ModelOptions = NO_OPTIONS,
    rounds: RoundsOption = (),
    cache: bool = False,
    weights: Path | None = None,
    seed: Seed = 0,
    onnx: OnnxOptions = NO_ONNX_OPTIONS,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Write a model as PyTorch source, as ONNX, or as a folder for Hugging Face transformers.

    Of a run that is exported at another precision, or with several rounds to choose from, the loss
    on the run's held-out text is printed: what a precision costs, and what a round is worth.

    Parameters
    ----------
    to
        The form to write.
    output
        The file to write. In ONNX a name without a suffix, or with a slash at its end, is that of
        a model folder: model.onnx, its weights and the run's tokenizer.
        For hf it is a folder that loads with trust_remote_code=True where there is no rinsc.
    rounds
        Write so many rounds out, as 3, or A=2 for one repeat; dynamic makes them a run-time input.
        If not given: run-time in PyTorch, as the signature writes them in ONNX. For hf they are
        those that run where a pass asks for no others.
    cache
        The form that continues sequences: it is given past keys and values, and gives them back.
    weights
        A safetensors file for onnx or hf; if not given, a run's own, else fresh ones.
    seed
        Of fresh weights.
    overwrite
        Write over a model folder of another form, whose files are then removed.
    json
        Print what was written, and the loss, as JSON.
    """
    folder = open_run(model) if is_run(model) else None
    spec = options.spec(model)
    dynamic = rounds == ("dynamic",)
    asked = None if dynamic else parse_rounds(rounds)
    if asked is None and not dynamic and to != "torch":
        asked = own_rounds(folder)
    _check_rounds(spec, asked)
    if not output:
        raise UsageError("usage", "-o is empty", hint="name the file or folder to write")
    if to == "onnx":
        form: RoundsForm = "dynamic" if dynamic else asked
        request = Request(spec, output, form, cache, folder, weights, seed, json)
        path = request.path if request.is_folder else None
        with in_place_of(path, partial(onnx_form, request, onnx), overwrite=overwrite):
            compile_onnx(request, onnx)
        return
    if to == "hf":
        refuse_onnx_options(onnx, cache=cache)
        wanted = FolderRequest(spec, Path(output), asked, folder, weights, seed, json)
        with in_place_of(wanted.output, partial(hf_form, asked), overwrite=overwrite):
            compile_hf(wanted)
        return
    if overwrite:
        message = "--overwrite is about a model folder, and PyTorch source is a file"
        raise UsageError("usage", message, hint="leave it out: a file is written over")
    _refuse(onnx, weights)
    path = Path(output)
    check_writable(path)
    _write_source(spec, path, asked, cache)
    size = path.stat().st_size
    print_note(f"wrote {path} ({rounded_bytes(size)})")
    if json:
        print_json({"files": {str(path): size}, "signature": spec.text})


def _check_rounds(spec: ModelSpec, rounds: Rounds) -> None:
    from rinsc.graph import build_graph, resolve_rounds

    graph = build_graph(spec)
    with option_values():
        resolve_rounds(graph, rounds)


def _refuse(onnx: OnnxOptions, weights: Path | None) -> None:
    """Raises UsageError for options that mean nothing to PyTorch source."""
    problems = []
    if weights is not None:
        message = "PyTorch source holds no weights"
        hint = "leave --weights out; Model().load_state_dict takes them at run time"
        problems.append(Problem("usage", message, hint=hint))
    if onnx.given:
        message = f"PyTorch source takes no {', '.join(onnx.given)}"
        problems.append(Problem("usage", message, hint="write --to onnx, or leave that out"))
    if problems:
        raise UsageError.of(*problems)


def _write_source(spec: ModelSpec, output: Path, rounds: Rounds, cache: bool) -> None:
    require("torch")
    from rinsc.backends.torch import emit_source
    from rinsc.graph import build_graph, unroll

    graph = build_graph(spec)
    graph = graph if rounds is None else unroll(graph, rounds)
    write_atomically(output, emit_source(graph, cached=cache))
