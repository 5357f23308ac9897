"""`rinsc.export`: a model as Python source, as ONNX, or as a folder for transformers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from rinsc.backends.onnx.contract import Key
from rinsc.backends.onnx.form import OnnxForm
from rinsc.errors import (
    UsageError,
    did_you_mean,
    option_values,
    require_type,
    setting,
)
from rinsc.extras import require
from rinsc.graph import build_graph, resolve_rounds
from rinsc.progress import Progress, ShownProgress
from rinsc.scalars import rounded_bytes
from rinsc.spec import TowersSpec
from rinsc.storage.files import check_writable, parse_json, write_atomically
from rinsc.verbs.forms import (
    FORMS,
    FRESH,
    Exported,
    Form,
    HfForm,
    TorchForm,
)
from rinsc.verbs.models import Model, find_model, own_rounds

if TYPE_CHECKING:
    import numpy.typing as npt


def export(
    model: object,
    path: str | os.PathLike[str],
    form: Form | Literal["onnx", "torch", "hf"] = "onnx",
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
        refused = [name for name, value in onnx_settings.items() if value]
        refused += [setting("overwrite")] * overwrite
        return _export_towers(source, spec, text, chosen, shown, refused=refused)
    if not isinstance(chosen, OnnxForm):
        _refuse([name for name, value in onnx_settings.items() if value], chosen)
    _check_rounds(source, chosen)
    if isinstance(chosen, TorchForm):
        return _export_torch(source, text, chosen, shown, overwrite=overwrite)
    if isinstance(chosen, HfForm):
        from rinsc.verbs.export_hf import export_hf

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


def _export_towers(
    model: Model,
    spec: TowersSpec,
    output: str,
    form: Form,
    progress: Progress,
    *,
    refused: Sequence[str],
) -> Exported:
    """The file of all towers; ``refused`` are settings that were given and mean nothing here."""
    path, graph = Path(output), build_graph(spec)
    if isinstance(form, HfForm):
        raise _several_towers(
            "transformers has no model of several towers of ours", "write torch or onnx"
        )
    settings = list(refused)
    if not isinstance(form, OnnxForm):
        settings += ["cache"] * form.cache + ["rounds"] * (form.rounds is not None)
        settings += ["weights"] * (model.weights is not None)
    if settings:
        message = f"a model of several towers takes no {', '.join(settings)} in this form"
        raise _several_towers(message, "leave that out, or export one tower alone")
    if not isinstance(form, OnnxForm):
        require("torch")
        from rinsc.backends.torch import emit_towers

        check_writable(path)
        write_atomically(path, emit_towers(graph))
        progress.line(f"wrote {path} ({rounded_bytes(path.stat().st_size)})")
        return Exported(path, {path: path.stat().st_size}, form, spec.text)
    if path.is_dir() or not path.suffix:
        message = "several towers are written to one file, and this names a folder"
        raise _several_towers(message, f"name the file: -o {path.name or 'model'}.onnx")
    require("torch", "safetensors", "onnx_ir", "numpy")
    from rinsc.backends.onnx import to_onnx
    from rinsc.backends.onnx.integrity import data_files
    from rinsc.backends.onnx.write.export import plan_towers

    with option_values():
        plan_towers(graph, form)
    check_writable(path)
    if not model.has_weights:
        progress.note(FRESH)
    written = to_onnx(model.compiled(), form)
    written.save(path)
    files = {file: file.stat().st_size for file in [path, *sorted(data_files(path))]}
    progress.line(f"wrote {path} ({rounded_bytes(sum(files.values()))})")
    rounds = parse_json(written.metadata[Key.ROUNDS])
    return Exported(path, files, form, spec.text, rounds, dict(written.metadata))


def _several_towers(message: str, hint: str) -> UsageError:
    return UsageError("several-towers", message, hint=hint)
