"""`rinsc.export` of a model of several towers: one file, PyTorch source or ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rinsc.backends.onnx.contract import Key
from rinsc.backends.onnx.form import OnnxForm
from rinsc.errors import UsageError, option_values
from rinsc.extras import require
from rinsc.graph import build_graph
from rinsc.progress import Progress
from rinsc.scalars import rounded_bytes
from rinsc.spec import TowersSpec
from rinsc.storage.files import check_writable, parse_json, write_atomically
from rinsc.verbs.forms import FRESH, Exported, Form, HfForm
from rinsc.verbs.models import Model


def export_towers(
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
        raise _error("transformers has no model of several towers of ours", "write torch or onnx")
    settings = list(refused)
    if not isinstance(form, OnnxForm):
        settings += ["cache"] * form.cache + ["rounds"] * (form.rounds is not None)
        settings += ["weights"] * (model.weights is not None)
    if settings:
        message = f"a model of several towers takes no {', '.join(settings)} in this form"
        raise _error(message, "leave that out, or export one tower alone")
    if not isinstance(form, OnnxForm):
        require("torch")
        from rinsc.backends.torch import emit_towers

        check_writable(path)
        write_atomically(path, emit_towers(graph))
        progress.line(f"wrote {path} ({rounded_bytes(path.stat().st_size)})")
        return Exported(path, {path: path.stat().st_size}, form, spec.text)
    if path.is_dir() or not path.suffix:
        message = "several towers are written to one file, and this names a folder"
        raise _error(message, f"name the file: -o {path.name or 'model'}.onnx")
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
    files = {each: each.stat().st_size for each in [path, *sorted(data_files(path))]}
    progress.line(f"wrote {path} ({rounded_bytes(sum(files.values()))})")
    rounds = parse_json(written.metadata[Key.ROUNDS])
    return Exported(path, files, form, spec.text, rounds, dict(written.metadata))


def _error(message: str, hint: str) -> UsageError:
    return UsageError("several-towers", message, hint=hint)
