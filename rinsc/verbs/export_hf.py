"""`rinsc.export` to a folder for transformers: a language model, or a classifier of pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rinsc.errors import CheckpointError, OutputError
from rinsc.extras import require
from rinsc.graph import build_graph
from rinsc.layers.kind import layer_kind
from rinsc.progress import Progress
from rinsc.storage.files import read_json
from rinsc.verbs.forms import FRESH, Exported, HfForm, hf_facts, in_place_of, said_written
from rinsc.verbs.models import Model, own_rounds

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rinsc.backends.hf import RinscForCausalLM, RinscForImageClassification
    from rinsc.graph import Rounds
    from rinsc.training.run_folder import RunFolder


def export_hf(
    model: Model, output: Path, form: HfForm, progress: Progress, *, overwrite: bool
) -> Exported:
    """Write the folder, and say what it holds."""
    rounds = own_rounds(model.run) if form.rounds is None else form.rounds
    with in_place_of(output, lambda: hf_facts(rounds), overwrite=overwrite):
        return _write(model, output, replace(form, rounds=rounds), progress)


def _write(model: Model, output: Path, form: HfForm, progress: Progress) -> Exported:
    _check_no_run(output)
    require("torch", "safetensors", "transformers")
    from rinsc.backends.hf.folder import check_standalone_folder, write_standalone_folder
    from rinsc.text.tokenizer_files import TOKENIZER_FILES, read_tokenizer_files

    check_standalone_folder(output)
    lm = _model(model, form.rounds)
    tokenizer = model.tokenizer
    files = {} if tokenizer is None else read_tokenizer_files(tokenizer, model.spec.context)
    written = write_standalone_folder(lm, output, files)
    progress.line(said_written(output, written))
    for name in TOKENIZER_FILES:
        if name not in files and (output / name).exists():
            progress.note(f"{output / name} stood there before; it is not of this model")
    if not model.has_weights:
        progress.note(FRESH)
    sizes = {path: path.stat().st_size for path in written}
    return Exported(output, sizes, form, model.spec.text, lm.config.rounds_of())


def _check_no_run(path: Path) -> None:
    from rinsc.training.run_folder import RunFolder

    if RunFolder(path).model_spec.exists():
        message = "the folder holds a training run; a model folder is one of its own"
        hint = "choose another folder"
        raise OutputError("run-exists", message, place=str(path), hint=hint)


def _model(model: Model, rounds: Rounds) -> RinscForCausalLM | RinscForImageClassification:
    """With the weights that are asked for, or fresh ones."""
    import torch

    from rinsc.backends.hf import causal_lm, image_classifier
    from rinsc.backends.torch import load_weights
    from rinsc.backends.torch.memory import require_memory

    graph = build_graph(model.spec)
    model.check_weights()
    require_memory(graph)
    torch.manual_seed(model.seed)
    if layer_kind(model.spec.kind).takes == "patches":
        labels, shape = _pictures(model.run, model.spec.vocab_size)
        hosted: Any = image_classifier(graph, shape, labels=labels, rounds=rounds)
    else:
        hosted = causal_lm(graph, rounds=rounds)
    if model.module is not None:
        hosted.model.load_state_dict(model.module.state_dict())
    elif model.file is not None:
        load_weights(hosted.model, model.file)
    if model.run is not None and layer_kind(model.spec.kind).takes == "tokens":
        _set_tokens(hosted, model.run, model.spec.vocab_size)
    return hosted  # type: ignore[no-any-return]


def _pictures(
    run: RunFolder | None, classes: int
) -> tuple[list[str] | None, tuple[int, int, int] | None]:
    """Names of classes, and (height, width, channels) of the pictures that a run was trained on, or
    that a saved model takes; None where nothing says so."""
    from rinsc.training.saved_model import is_saved_model, picture_labels, picture_shape

    if run is None:
        return None, None
    if is_saved_model(run):
        return picture_labels(run, classes), picture_shape(run)
    try:
        height, width, channels = read_json(run.data_record)["corpus"]["shape"]
    except (OSError, ValueError, TypeError, LookupError):
        message, hint = "the shape of the pictures cannot be read", "restore the file"
        location = str(run.data_record)
        raise CheckpointError("cannot-read", message, place=location, hint=hint) from None
    return None, (height, width, channels)


def _set_tokens(lm: RinscForCausalLM, run: RunFolder, vocab_size: int) -> None:
    """What a run's config and tokenizer say of the tokens that end a text and fill a batch."""
    from rinsc.backends.hf.folder import token_ids
    from rinsc.text.tokenizer_files import (
        generation_config,
        read_declared,
        read_tokenizer_text,
        special_tokens,
        stop_ids,
        vocabulary_size,
    )

    ids: Mapping[str, object] = {}
    if run.hf_config.is_file():
        ids = token_ids(run.hf_config, vocab_size)
    if run.tokenizer.is_file():
        text = read_tokenizer_text(run.tokenizer)
        special = special_tokens(text, read_declared(run.path))
        stops = stop_ids(run.path, special.stop_ids, vocab_size)
        ids = {**ids, **replace(special, stop_ids=stops).config_ids}
        try:
            size = vocabulary_size(text)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError):
            message, hint = "the tokenizer.json is damaged", "restore the file"
            location = str(run.tokenizer)
            raise CheckpointError("bad-tokenizer", message, place=location, hint=hint) from None
        padding = generation_config(stops, size, vocab_size)
        if lm.generation_config is not None:
            lm.generation_config.suppress_tokens = padding.get("suppress_tokens")
    for key, value in ids.items():
        setattr(lm.config, key, value)
