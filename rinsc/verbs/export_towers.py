"""`rinsc.export` of several towers: one file, or a folder of what others load of SigLIP."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rinsc.backends.onnx.contract import Key
from rinsc.backends.onnx.form import OnnxForm
from rinsc.errors import OutputError, SpecError, UsageError, option_values, setting
from rinsc.extras import require
from rinsc.graph import build_graph
from rinsc.progress import Progress
from rinsc.scalars import rounded_bytes
from rinsc.sources.siglip_files import processor_json, siglip_config, siglip_config_json
from rinsc.spec import TowersSpec
from rinsc.storage.files import (
    check_folder,
    check_writable,
    made_folder,
    parse_json,
    read_json,
    write_atomically,
)
from rinsc.storage.folders import folder_aside
from rinsc.verbs.carried import CARRIED, carried
from rinsc.verbs.forms import FRESH, Exported, Form, HfForm, TorchForm, check_no_run, said_written
from rinsc.verbs.models import Model, own_rounds

if TYPE_CHECKING:
    import torch

    from rinsc.backends.torch.module import CompiledTowers
    from rinsc.graph import Rounds
    from rinsc.training.run_folder import RunFolder

PROCESSOR_FILE = "preprocessor_config.json"
OWN_TYPE = "rinsc_siglip"
PAD_ID = 1  # of SigLIP
FOLDER_FILES = frozenset(
    (
        *("config.json", "model.safetensors", "modeling_rinsc.py", "checksums.json"),
        *(*CARRIED, "onnx", "__pycache__"),
    )
)


def export_towers(
    model: Model,
    spec: TowersSpec,
    output: str,
    form: Form,
    progress: Progress,
    *,
    refused: Sequence[str],
    overwrite: bool,
) -> Exported:
    """Write all towers; ``refused`` are settings that were given and mean nothing here."""
    path = Path(output)
    settings = list(refused)
    is_folder = isinstance(form, HfForm) or (
        isinstance(form, OnnxForm) and (path.is_dir() or not path.suffix)
    )
    if isinstance(form, TorchForm):
        settings += ["cache"] * form.cache + ["rounds"] * (form.rounds is not None)
        settings += ["weights"] * (model.weights is not None)
    if not is_folder:
        settings += [setting("overwrite")] * overwrite
    if settings:
        message = f"a model of several towers takes no {', '.join(settings)} in this form"
        raise _several_towers(message, "leave that out, or export one tower alone")
    if is_folder:
        return _write_folder(model, spec, path, form, progress, overwrite=overwrite)
    if isinstance(form, OnnxForm):
        return _write_onnx_file(model, spec, path, form, progress)
    require("torch")
    from rinsc.backends.torch import emit_towers

    check_writable(path)
    write_atomically(path, emit_towers(build_graph(spec)))
    progress.line(f"wrote {path} ({rounded_bytes(path.stat().st_size)})")
    return Exported(path, {path: path.stat().st_size}, form, spec.text)


def _write_onnx_file(
    model: Model, spec: TowersSpec, path: Path, form: OnnxForm, progress: Progress
) -> Exported:
    require("torch", "safetensors", "onnx_ir", "numpy")
    from rinsc.backends.onnx import to_onnx
    from rinsc.backends.onnx.integrity import data_files
    from rinsc.backends.onnx.write.export import plan_towers

    with option_values():
        plan_towers(build_graph(spec), form)
    check_writable(path)
    if not model.has_weights:
        progress.note(FRESH)
    written = to_onnx(model.compiled(), form)
    written.save(path)
    files = {file: file.stat().st_size for file in [path, *sorted(data_files(path))]}
    progress.line(f"wrote {path} ({rounded_bytes(sum(files.values()))})")
    rounds = parse_json(written.metadata[Key.ROUNDS])
    return Exported(path, files, form, spec.text, rounds, dict(written.metadata))


def _write_folder(
    model: Model,
    spec: TowersSpec,
    path: Path,
    form: Form,
    progress: Progress,
    *,
    overwrite: bool,
) -> Exported:
    if spec.pairing is None:
        message = "several towers are written to one file, and this names a folder"
        if isinstance(form, HfForm):
            message = "transformers has no model of towers that compare no pictures with texts"
        hint = f"name an ONNX file: -o {path.name or 'model'}.onnx"
        raise _several_towers(message, hint)
    files = FilesBeside.of(_files_of(model.run), spec)
    if isinstance(form, HfForm):
        contents = _hf_contents(model, spec, form, files)
    else:
        contents = _onnx_contents(model, spec, form, files)
    sizes = write_contents(contents, path, progress, overwrite=overwrite)
    if not model.has_weights:
        progress.note(FRESH)
    return Exported(path, sizes, form, spec.text, contents.rounds, contents.metadata)


def write_contents(
    contents: Contents, path: Path, progress: Progress, *, overwrite: bool
) -> dict[Path, int]:
    """Let a folder have these contents, as one step; the sizes of its files, the weights first."""
    check_towers_folder(path, contents.facts, overwrite=overwrite)
    with made_folder(path.parent), folder_aside(path) as aside:
        contents.write(aside)
        names = [
            str(file.relative_to(aside)) for file in sorted(aside.rglob("*")) if file.is_file()
        ]
    written = [path / name for name in sorted(names, key=lambda n: not n.endswith(WEIGHTS))]
    progress.line(said_written(path, written))
    if "tokenizer.json" not in names:
        progress.note(f"there is no tokenizer.json, so {path} takes token ids alone")
    return {file: file.stat().st_size for file in written}


def _files_of(run: RunFolder | None) -> dict[str, bytes]:
    """What lies in a run, or in a model folder, beside the weights; no code is named in it."""
    return {} if run is None else carried(run.path, without_code=True)


# What transformers.js calls our precisions. It appends the name to that of a file, but for fp32.
DTYPES: Mapping[str, str] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "int4": "q4"}
WEIGHTS = (".safetensors", ".onnx", ".onnx_data")


@dataclass(frozen=True)
class Contents:
    """What a folder will hold: ``facts`` of its form, and ``write``, which fills it."""

    facts: Mapping[str, Any]
    rounds: Any
    write: Callable[[Path], None]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class FilesBeside:
    """What goes beside the weights: how texts and pictures become inputs."""

    contents: Mapping[str, bytes]
    token_ids: Mapping[str, int | None]

    @classmethod
    def of(cls, files: Mapping[str, bytes], spec: TowersSpec) -> FilesBeside:
        """Those ``files``, with a processor of pictures that fits the tower."""
        from rinsc.layers import model_input

        pair = spec.pairing
        assert pair is not None
        _, channels, size, _ = model_input(spec.towers[pair.image]).shape
        contents = dict(files)
        if not _is_of_siglip(files.get(PROCESSOR_FILE, b""), size):
            contents[PROCESSOR_FILE] = processor_json(int(size), int(channels))
        return cls(contents, _token_ids(contents))


def _is_of_siglip(config: bytes, size: object) -> bool:
    """Whether the config of a processor makes pictures as the tower takes them."""
    try:
        values = parse_json(config)
        kind = str(values.get("image_processor_type"))
    except (ValueError, AttributeError):
        return False
    return kind.startswith("Siglip") and values.get("size") == {"height": size, "width": size}


def _token_ids(files: Mapping[str, bytes]) -> dict[str, int | None]:
    """The ids that fill a text up and end it, as the tokenizer's files say."""
    ids: dict[str, int | None] = {"pad_token_id": PAD_ID, "eos_token_id": None}
    try:
        added = parse_json(files["tokenizer.json"])["added_tokens"]
        config = parse_json(files["tokenizer_config.json"])
        known = {token["content"]: int(token["id"]) for token in added}
    except (ValueError, KeyError, TypeError):
        return ids
    for key in ids:
        token = config.get(key.removesuffix("_id"))
        token = token.get("content") if isinstance(token, dict) else token
        if token in known:
            ids[key] = known[token]
    return ids


def _hf_contents(model: Model, spec: TowersSpec, form: Form, files: FilesBeside) -> Contents:
    """`SiglipModel` where it computes the same, else the class of ours."""
    require("torch", "safetensors", "transformers")
    from rinsc.backends.hf.towers_folder import siglip_tensors
    from rinsc.graph import tower_rounds
    from rinsc.graph.towers_graph import by_dial

    assert isinstance(form, HfForm)
    graph = build_graph(spec)
    rounds = own_rounds(model.run) if form.rounds is None else form.rounds
    with option_values():
        counts = by_dial(tower_rounds(graph, rounds))
    module: CompiledTowers = model.compiled()  # type: ignore[assignment]
    plain: tuple[dict[str, Any], dict[str, Any]] | None = None
    if not form.dial:
        try:
            plain = siglip_tensors(module, rounds)
        except SpecError:
            plain = None
    if plain is None:
        return own_contents(module, rounds, files)
    config, tensors = plain
    config["text_config"] |= files.token_ids
    facts = {"form": "SiglipModel", "signature": spec.text, "rounds": counts}
    texts = {"config.json": siglip_config_json(config, _dtype(module), facts)}
    return Contents(facts, counts, _writer(tensors, {**texts, **files.contents}), {})


def own_contents(module: CompiledTowers, rounds: Rounds, files: FilesBeside) -> Contents:
    """The folder with the code of the model, whose rounds are an argument of each pass."""
    from rinsc.backends.hf.towers_folder import own_files, own_tensors
    from rinsc.graph import tower_rounds
    from rinsc.graph.towers_graph import by_dial, named_tower_rounds

    with option_values():
        rounds = named_tower_rounds(module.graph, rounds)
    facts = {"form": "hf", "rounds": rounds or {}}
    texts = own_files(module, rounds, files.token_ids)
    write = _writer(own_tensors(module), {**texts, **files.contents})
    return Contents(facts, by_dial(tower_rounds(module.graph, rounds)), write, {})


def _writer(
    tensors: Mapping[str, torch.Tensor], files: Mapping[str, bytes]
) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        from rinsc.backends.hf.towers_folder import write_tensor_file

        write_tensor_file(folder / "model.safetensors", tensors)
        for name, content in files.items():
            (folder / name).write_bytes(content)

    return write


def _onnx_contents(model: Model, spec: TowersSpec, form: Form, files: FilesBeside) -> Contents:
    """The three files that transformers.js loads, and what they need beside them."""
    require("torch", "safetensors", "onnx_ir", "numpy")
    from rinsc.backends.onnx.write.export import plan_towers
    from rinsc.backends.onnx.write.published import published_models
    from rinsc.backends.onnx.write.stream import is_too_large, write_models

    assert isinstance(form, OnnxForm)
    graph = build_graph(spec)
    rounds = own_rounds(model.run) if form.rounds is None else form.rounds
    with option_values():
        form = replace(form, rounds=rounds)
        plan_towers(graph, form)
    module = model.compiled()
    with option_values():
        models = published_models(module, form)
    metadata = models["model"].metadata
    counts = parse_json(metadata[Key.ROUNDS])
    config = siglip_config(graph, counts)
    config["text_config"] |= files.token_ids
    dtype = DTYPES.get(form.precision.name)
    config["transformers.js_config"] = {  # else it looks for other files in a browser
        **({} if dtype is None else {"dtype": dtype}),
        **({"use_external_data_format": True} if any(map(is_too_large, models.values())) else {}),
    }
    facts = {"form": f"{form.name} onnx", "precision": form.precision.text, "rounds": counts}
    beside = {
        "config.json": siglip_config_json(config, _dtype(module), facts),
        **files.contents,
    }
    suffix = "" if dtype == "fp32" else f"_{dtype or form.precision.name}"

    def write(folder: Path) -> None:
        (folder / "onnx").mkdir()
        files = {folder / "onnx" / f"{name}{suffix}.onnx": one for name, one in models.items()}
        write_models(files)
        for name, content in beside.items():
            (folder / name).write_bytes(content)

    return Contents(facts, counts, write, dict(metadata))


def _dtype(module: Any) -> str:
    return str(next(module.parameters()).dtype).removeprefix("torch.")


def check_towers_folder(path: Path, facts: Mapping[str, Any], *, overwrite: bool) -> None:
    """Raises OutputError where a folder cannot be written, or holds something else."""
    if os.path.lexists(path) and not path.is_dir():
        message, hint = "this is a file, and a model folder is to stand here", "choose another name"
        raise OutputError("cannot-write", message, place=str(path), hint=hint)
    check_no_run(path)
    check_folder(path)
    names = {file.name for file in path.iterdir()} if path.is_dir() else set()
    standing = standing_towers(path)
    if names and (standing is None or not names <= FOLDER_FILES):
        message = "the folder holds something else, which would be lost"
        hint = "choose another folder, or empty this one"
        raise OutputError("folder-taken", message, place=str(path), hint=hint)
    if standing is not None and standing != facts and not overwrite:
        message = f"a model of another form stands here: {_said(standing)}, not {_said(facts)}"
        hint = f"choose another folder, or write over it with {setting('overwrite')}"
        raise OutputError("other-form", message, place=str(path), hint=hint)


def standing_towers(path: Path) -> Mapping[str, Any] | None:
    """The form of a folder that `export_towers` wrote; None of any other."""
    try:
        config = read_json(path / "config.json")
        if config.get("model_type") == OWN_TYPE:
            return {"form": "hf", "rounds": config.get("rounds") or {}}
        facts = config.get("rinsc")
    except (OSError, ValueError, AttributeError):
        return None
    return facts if isinstance(facts, dict) else None


def _said(facts: Mapping[str, Any]) -> str:
    return ", ".join(str(value) for value in facts.values() if value)


def _several_towers(message: str, hint: str) -> UsageError:
    return UsageError("several-towers", message, hint=hint)
