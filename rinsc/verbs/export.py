"""`rinsc.export`: a model as Python source, as ONNX, or as a folder for transformers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from rinsc.backends.onnx.form import OnnxForm
from rinsc.errors import (
    CheckpointError,
    UsageError,
    did_you_mean,
    option_values,
    require_type,
    setting,
)
from rinsc.extras import require
from rinsc.graph import build_graph, resolve_rounds
from rinsc.layers.kind import takes_pictures
from rinsc.progress import Progress, ShownProgress
from rinsc.scalars import rounded_bytes
from rinsc.spec import TowersSpec
from rinsc.storage.files import check_writable, read_json, write_atomically
from rinsc.verbs.export_plain import export_plain
from rinsc.verbs.export_towers import export_towers
from rinsc.verbs.forms import (
    FORMS,
    FRESH,
    Exported,
    Form,
    HfForm,
    PlainForm,
    TorchForm,
    check_no_run,
    hf_facts,
    in_place_of,
    said_written,
)
from rinsc.verbs.models import Model, find_model, own_rounds

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from rinsc.backends.hf import RinscForCausalLM, RinscForImageClassification
    from rinsc.graph import Rounds
    from rinsc.training.run_folder import RunFolder


def export(
    model: object,
    path: str | os.PathLike[str],
    form: Form | Literal["onnx", "torch", "hf", "llama"] = "onnx",
    *,
    weights: str | os.PathLike[str] | None = None,
    seed: int = 0,
    overwrite: bool = False,
    calibrate: str | os.PathLike[str] | npt.ArrayLike | bool | None = None,
    genai: bool = False,
    stop_ids: Sequence[int] = (),
    held_out: bool = False,
    report: bool = True,
    progress: Progress | None = None,
) -> Exported:
    """Write a model in a form: what ``rinsc compile`` does.

    ``model`` is a signature, a TOML file, a `ModelSpec` or `TowersSpec`, a module, the folder of
    a run, or one that transformers saved. ``path`` is a file; in ONNX a name without a suffix is
    that of a model folder, and for transformers it is a folder. Weights are those of the module
    or the run, or those of the safetensors file ``weights``, else fresh ones from ``seed``.
    ``overwrite`` replaces a model folder of another form.

    The other arguments are of ONNX. ``calibrate`` is the text by which int4 is rounded: a file,
    token ids (windows, seq), True for text that the model samples, False to
    round each weight by itself, None for
    the run's training text. ``genai`` makes a folder that onnxruntime-genai loads. ``stop_ids``
    end a text, besides those of the tokenizer. ``held_out`` ships a sample of the run's held-out
    text in the folder. ``report`` measures the loss on that text. What takes its time is told to
    ``progress``, by default on standard error or below the cell of a notebook.

    Raises `RinscError`; nothing is then left half-written.
    """
    chosen = _form(form)
    source = find_model(model, weights=weights, seed=seed)
    text = os.fspath(path)
    if not text:
        message = f"{setting('path', '-o')} is empty"
        raise UsageError("usage", message, hint="name the file or folder to write")
    shown = ShownProgress() if progress is None else progress
    onnx_settings = {
        setting("calibrate"): calibrate is not None,
        setting("genai"): genai,
        setting("stop_ids", "--stop-id"): len(stop_ids) > 0,
        setting("held_out"): held_out,
    }
    spec: object = source.spec
    if isinstance(spec, TowersSpec):
        if isinstance(chosen, PlainForm):
            message = f"{spec.text!r} has several towers, and plain folders hold language models"
            hint = f"write {setting('form=HfForm()', '--to hf')}: a SiglipModel where it is one"
            raise UsageError("several-towers", message, hint=hint)
        refused = [name for name, value in onnx_settings.items() if value]
        return export_towers(
            *(source, spec, text, chosen, shown), refused=refused, overwrite=overwrite
        )
    if not isinstance(chosen, OnnxForm):
        _refuse([name for name, value in onnx_settings.items() if value], chosen)
    _check_rounds(source, chosen)
    if isinstance(chosen, TorchForm):
        return _export_torch(source, text, chosen, shown, overwrite=overwrite)
    if isinstance(chosen, PlainForm):
        return export_plain(source, Path(text), chosen, shown, overwrite=overwrite)
    if isinstance(chosen, HfForm):
        return export_hf(source, Path(text), chosen, shown, overwrite=overwrite)
    from rinsc.verbs.export_onnx import OnnxExport

    return OnnxExport(
        *(source, text, chosen, shown, calibrate),
        genai=genai,
        stop_ids=tuple(stop_ids),
        held_out=held_out,
        report=report,
    ).run(overwrite=overwrite)


def _form(form: Form | str) -> Form:
    require_type("form", form, (str, *get_args(Form)), "form='onnx', or rinsc.OnnxForm()")
    if not isinstance(form, str):
        return form
    if form not in FORMS:
        hint = did_you_mean(form, FORMS)
        raise UsageError("unknown-form", f"'{form}' is no form of a model", hint=hint)
    return FORMS[form]()


def _refuse(names: Sequence[str], form: Form) -> None:
    """Raises UsageError for settings that only an ONNX model has."""
    if names:
        what = "PyTorch source" if isinstance(form, TorchForm) else "a model of transformers"
        message = f"{what} takes no {', '.join(names)}"
        raise UsageError("usage", message, hint="write an ONNX model, or leave that out")


def _check_rounds(model: Model, form: Form) -> None:
    rounds = form.count if isinstance(form, OnnxForm) else form.rounds
    graph = build_graph(model.spec)
    if rounds is None:
        resolve_rounds(graph, own_rounds(model.run))
        return
    with option_values():
        resolve_rounds(graph, rounds)


def _export_torch(
    model: Model, output: str, form: TorchForm, progress: Progress, *, overwrite: bool
) -> Exported:
    if overwrite:
        message = f"{setting('overwrite')} is about a model folder, and PyTorch source is a file"
        raise UsageError("usage", message, hint="leave it out: a file is written over")
    if model.weights is not None:
        message = "PyTorch source holds no weights"
        hint = f"leave {setting('weights')} out; Model().load_state_dict takes them at run time"
        raise UsageError("usage", message, hint=hint)
    path = Path(output)
    check_writable(path)
    require("torch")
    from rinsc.backends.torch import emit_source
    from rinsc.graph import unroll

    graph = build_graph(model.spec)
    graph = graph if form.rounds is None else unroll(graph, form.rounds)
    write_atomically(path, emit_source(graph, cached=form.cache))
    size = path.stat().st_size
    progress.line(f"wrote {path} ({rounded_bytes(size)})")
    return Exported(path, {path: size}, form, model.spec.text, form.rounds)


def export_hf(
    model: Model, output: Path, form: HfForm, progress: Progress, *, overwrite: bool
) -> Exported:
    """Write the folder, and say what it holds."""
    rounds = own_rounds(model.run) if form.rounds is None else form.rounds
    with in_place_of(output, lambda: hf_facts(rounds), overwrite=overwrite):
        return _write_hf(model, output, replace(form, rounds=rounds), progress)


def _write_hf(model: Model, output: Path, form: HfForm, progress: Progress) -> Exported:
    check_no_run(output)
    require("torch", "safetensors", "transformers")
    from rinsc.backends.hf.folder import check_standalone_folder, write_standalone_folder
    from rinsc.text.tokenizer_files import TOKENIZER_FILES, read_tokenizer_files

    check_standalone_folder(output)
    lm = _hosted(model, form.rounds)
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


def _hosted(model: Model, rounds: Rounds) -> RinscForCausalLM | RinscForImageClassification:
    """With the weights that are asked for, or fresh ones."""
    import torch

    from rinsc.backends.hf import causal_lm, image_classifier
    from rinsc.backends.torch import load_weights
    from rinsc.backends.torch.memory import require_memory

    graph = build_graph(model.spec)
    model.check_weights()
    require_memory(graph)
    torch.manual_seed(model.seed)
    if takes_pictures(model.spec):
        labels, shape = _pictures(model.run, model.spec.vocab_size)
        hosted: Any = image_classifier(graph, shape, labels=labels, rounds=rounds)
    else:
        hosted = causal_lm(graph, rounds=rounds)
    if model.module is not None:
        hosted.model.load_state_dict(model.module.state_dict())
    elif model.file is not None:
        load_weights(hosted.model, model.file)
    if model.run is not None and not takes_pictures(model.spec):
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
