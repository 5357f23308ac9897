"""Run folders as models: where a signature is welcome, what was trained from one is as well."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.errors import CheckpointError, Problem, RinscError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rinsc.backends.torch import CompiledModule
    from rinsc.graph import BlockGraph
    from rinsc.spec import ModelSpec
    from rinsc.train.run_folder import RunFolder


def is_run(model: str) -> bool:
    """Whether the text names a folder rather than a signature or a file.

    What is a signature stays one, whatever folders there are; ``./A`` is the folder.
    """
    if os.path.isdir(model):
        return os.sep in model or not is_signature(model)
    return os.sep in model and not os.path.splitext(model)[1]


def is_signature(text: str) -> bool:
    """Whether the text can be read as a signature."""
    from rinsc.syntax import parse

    try:
        parse(text)
    except RinscError:
        return False
    return True


def find_run(text: str) -> RunFolder:
    """The folder of a run, finished or not; raises CheckpointError."""
    from rinsc.train.run_folder import RunFolder

    folder = RunFolder(Path(text))
    if not folder.model_spec.is_file():
        message = "this is not the folder of a training run"
        hint = "train one: rinsc train '(A^3)B' --data plays -o FOLDER"
        raise CheckpointError(Problem("not-a-run", message, place=text, hint=hint))
    return folder


def open_run(text: str) -> RunFolder:
    """The folder of a finished run; raises CheckpointError."""
    folder = find_run(text)
    if not folder.weights.is_file():
        message = "this run has not been finished; it has no weights yet"
        hint = "finish it: the same rinsc train command goes on"
        raise CheckpointError(Problem("unfinished-run", message, place=text, hint=hint))
    return folder


def run_spec(folder: RunFolder) -> ModelSpec:
    from rinsc.spec import model_spec

    return model_spec(folder.model_spec)


def run_model(folder: RunFolder) -> CompiledModule:
    """The trained module of a run."""
    from rinsc.backends.torch import load_weights, to_torch

    model = to_torch(run_spec(folder))
    load_weights(model, folder.weights)
    return model


def run_trained_rounds(folder: RunFolder, graph: BlockGraph) -> Mapping[str, int]:
    """The most rounds of every repeat in this run: as it was told, else by the signature."""
    from rinsc.graph import trained_rounds
    from rinsc.train.config import config_from_toml
    from rinsc.train.depth import told_rounds

    if not folder.config.is_file():
        return trained_rounds(graph)
    text = folder.config.read_text(encoding="utf-8", errors="replace")
    config = config_from_toml(text, place=str(folder.config))
    return trained_rounds(graph) | told_rounds(graph, config)
