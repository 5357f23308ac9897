"""``rinsc compile --to hf``: a folder that transformers loads where there is no rinsc."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.cli.diagnostics import note
from rinsc.cli.numbers import rounded_bytes
from rinsc.cli.onnx_options import OnnxOptions
from rinsc.cli.output import print_json, print_note
from rinsc.errors import CheckpointError, OutputError, Problem, UsageError
from rinsc.extras import require
from rinsc.storage.files import read_regular_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rinsc.backends.hf import RinscForCausalLM
    from rinsc.graph import Rounds
    from rinsc.spec import ModelSpec
    from rinsc.training.run_folder import RunFolder


@dataclass(frozen=True)
class FolderRequest:
    """A model and the folder to write; ``run`` is the model's, where it was trained."""

    spec: ModelSpec
    output: Path
    rounds: Rounds
    run: RunFolder | None
    weights: Path | None
    seed: int
    json: bool


def compile_hf(request: FolderRequest) -> None:
    """Write the folder, and say what it holds."""
    _check_no_run(request.output)
    require("torch", "safetensors", "transformers")
    from rinsc.backends.hf.folder import check_standalone_folder, write_standalone_folder
    from rinsc.text.tokenizer_files import TOKENIZER_FILES

    check_standalone_folder(request.output)
    model = _model(request)
    files = _tokenizer_files(request)
    written = write_standalone_folder(model, request.output, files)
    size = rounded_bytes(sum(path.stat().st_size for path in written))
    names = ", ".join(path.name for path in written)
    print_note(f"wrote {request.output}{os.sep} ({size}: {names})")
    for name in TOKENIZER_FILES:
        if name not in files and (request.output / name).exists():
            note(f"{request.output / name} stood there before; it is not of this model")
    if request.run is None and request.weights is None:
        note("no weights were given; the model has fresh, untrained ones")
    if request.json:
        print_json(_facts(request, model, written))


def refuse_onnx_options(onnx: OnnxOptions, *, cache: bool) -> None:
    """Raises UsageError for options that mean nothing to a folder of transformers."""
    problems = []
    if cache:
        message = "a model of transformers continues sequences without --cache"
        problems.append(Problem("usage", message, hint="leave --cache out"))
    if onnx.given:
        message = f"a model of transformers takes no {', '.join(onnx.given)}"
        problems.append(Problem("usage", message, hint="write --to onnx, or leave that out"))
    if problems:
        raise UsageError.of(*problems)


def _check_no_run(path: Path) -> None:
    from rinsc.training.run_folder import RunFolder

    if RunFolder(path).model_spec.exists():
        message = "the folder holds a training run; a model folder is one of its own"
        hint = "choose another folder"
        raise OutputError("run-exists", message, place=str(path), hint=hint)


def _model(request: FolderRequest) -> RinscForCausalLM:
    """With the weights that are asked for, or fresh ones."""
    import torch

    from rinsc.backends.hf import causal_lm
    from rinsc.backends.hf.folder import token_ids
    from rinsc.backends.torch import load_weights
    from rinsc.backends.torch.memory import require_memory
    from rinsc.backends.torch.weights import open_weights
    from rinsc.graph import build_graph
    from rinsc.text.tokenizer_files import (
        generation_config,
        read_declared,
        special_tokens,
        stop_ids,
        vocabulary_size,
    )

    graph = build_graph(request.spec)
    weights = request.weights
    if weights is None and request.run is not None:
        weights = request.run.weights
    if weights is not None:
        with open_weights(weights):
            pass  # a file that cannot be read is told before the model is built
    require_memory(graph)
    torch.manual_seed(request.seed)
    model = causal_lm(graph, rounds=request.rounds)
    if weights is not None:
        load_weights(model.model, weights)
    run = request.run
    if run is not None and run.hf_config.is_file():
        for key, ids in token_ids(run.hf_config, request.spec.vocab_size).items():
            setattr(model.config, key, ids)
    if run is not None and run.tokenizer.is_file():
        text = read_regular_text(run.tokenizer)
        special = special_tokens(text, read_declared(run.path))
        stops = stop_ids(run.path, special.stop_ids, request.spec.vocab_size)
        for key, value in replace(special, stop_ids=stops).config_ids.items():
            setattr(model.config, key, value)
        try:
            size = vocabulary_size(text)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            message, hint = "the tokenizer.json is damaged", "restore the file"
            place = str(run.tokenizer)
            raise CheckpointError("bad-tokenizer", message, place=place, hint=hint) from None
        padding = generation_config(stops, size, request.spec.vocab_size)
        model.generation_config.suppress_tokens = padding.get("suppress_tokens")
    return model


def _tokenizer_files(request: FolderRequest) -> Mapping[str, bytes]:
    """The run's tokenizer, and what it is loaded with."""
    from rinsc.text.tokenizer_files import read_tokenizer_files

    run = request.run
    if run is None or not run.tokenizer.is_file():
        return {}
    return read_tokenizer_files(run.tokenizer, request.spec.context)


def _facts(
    request: FolderRequest, model: RinscForCausalLM, written: list[Path]
) -> Mapping[str, object]:
    return {
        "files": {str(path): path.stat().st_size for path in written},
        "signature": request.spec.text,
        "rounds": model.config.rounds_of(),
    }
