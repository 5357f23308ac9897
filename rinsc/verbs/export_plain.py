"""`rinsc.export` as a plain model of transformers: what every engine loads, without any code.

looped/  P[12]A[6]^2C[12]           llama/  LlamaForCausalLM of 36 layers
A.0.query.weight               ->   model.layers.12.self_attn.q_proj.weight
                                    model.layers.18.self_attn.q_proj.weight

Engines such as vLLM and SGLang know the classes of transformers alone. A layer that runs twice
stands there twice, so the folder is larger than the model.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rinsc.errors import OutputError, SpecError, option_values, setting
from rinsc.extras import require
from rinsc.graph import BlockGraph, build_graph, resolve_rounds, unroll
from rinsc.layers import require_language_model
from rinsc.progress import Progress
from rinsc.sources import FAMILIES, config_from_spec, executed_tensors, stacked
from rinsc.sources.stored import Stored
from rinsc.spec import ModelSpec
from rinsc.spec.settings import KindSettings
from rinsc.storage.files import check_folder, made_folder, parse_json
from rinsc.storage.folders import folder_aside
from rinsc.syntax import parse
from rinsc.variants.retrofit import pattern_of, stack
from rinsc.verbs.carried import CARRIED, carried
from rinsc.verbs.forms import FRESH, Exported, PlainForm, check_no_run, said_written
from rinsc.verbs.import_model import token_ids_of
from rinsc.verbs.models import Model, own_rounds

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
OWN_KEYS = ("rounds", "noise_seed", "_from_model_config")  # of our generation_config.json


def export_plain(
    model: Model, output: Path, form: PlainForm, progress: Progress, *, overwrite: bool
) -> Exported:
    """Write the folder, and say what it holds.

    Raises SpecError where no family of transformers computes what the model does.
    """
    spec = model.spec
    require_language_model(spec)
    graph = build_graph(spec)
    with option_values():
        rounds = own_rounds(model.run) if form.rounds is None else form.rounds
        counts = resolve_rounds(graph, rounds)
    flat = unroll(graph, counts or None)
    config, stored = plain_model(flat)
    _check_folder(output, overwrite=overwrite)
    require("torch", "safetensors")
    from rinsc.backends.torch.weight_files import write_tensors

    ours = _tensors(model)
    tensors = {
        theirs: stacked(own, [ours[name] for name in own.names]) for theirs, own in stored.items()
    }
    files = {} if model.run is None else carried(model.run.path, without_code=True)
    texts = {CONFIG_FILE: _config(config, model, tensors), **_generation(files)}
    contents = {**files, **{name: text.encode("utf-8") for name, text in texts.items()}}
    with made_folder(output.parent), folder_aside(output) as aside:
        write_tensors(tensors, aside / WEIGHTS_FILE, {"format": "pt"})
        for name, content in contents.items():
            (aside / name).write_bytes(content)
    written = [output / name for name in (WEIGHTS_FILE, *contents)]
    progress.line(said_written(output, written))
    if not model.has_weights:
        progress.note(FRESH)
    sizes = {path: path.stat().st_size for path in written}
    return Exported(output, sizes, replace(form, rounds=counts), spec.text, counts)


def plain_model(flat: BlockGraph) -> tuple[dict[str, Any], dict[str, Stored]]:
    """The config of a plain model with as many layers as run in the unrolled graph, and which of
    our tensors each of its own is made of.

    Raises SpecError where none computes the same.
    """
    spec, reasons = _plain_spec(flat), []
    for family in FAMILIES.values():
        if family.signature is not None:
            continue  # whose own models loop
        try:
            stored = executed_tensors(family, flat)
            return config_from_spec(family, spec), stored
        except SpecError as error:
            reasons.append(error)
    nearest = min(reasons, key=lambda error: "is a" in error.message)
    message = f"no plain class of transformers computes '{flat.spec.text}': {nearest.message}"
    hint = f"write {setting('form=HfForm()', '--to hf')}, which brings its own code"
    raise SpecError("not-a-plain-stack", message, hint=hint)


def _plain_spec(flat: BlockGraph) -> ModelSpec:
    """The spec of a stack in which each layer that runs stands as often as it runs."""
    spec, order = flat.spec, list(_order(flat))
    settings = {
        kind: {**table, "pattern": pattern_of(table["pattern"], order)}
        if isinstance(table.get("pattern"), str)
        else table
        for kind, table in spec.settings.items()
    }
    return replace(spec, signature=parse("A"), layers=len(order), settings=KindSettings(settings))


def _order(flat: BlockGraph) -> list[int]:
    """The number in the stored stack of each layer that runs."""
    numbers = {own: number for number, own in enumerate(stack(flat.spec))}
    order = []
    for visit in flat.visits():
        own = [numbers[visit.block, index] for index in range(flat.blocks[visit.block].layers)]
        for number in reversed(own) if visit.reverse else own:
            order += [number] * visit.each
    return order


def _tensors(model: Model) -> Mapping[str, torch.Tensor]:
    """Those of the file, as they are stored; of a module, or fresh ones."""
    from rinsc.backends.torch.weight_files import tensors_in

    if model.module is None and model.file is not None:
        return tensors_in(model.file)
    return model.compiled().state_dict()


def _config(config: Mapping[str, Any], model: Model, tensors: Mapping[str, torch.Tensor]) -> str:
    """The config.json, with the class of the model, its dtype and what its tokens mean."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    values: dict[str, Any] = {
        **config,
        "architectures": [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[config["model_type"]]],
        "dtype": dtype,
    }
    if model.run is not None:
        values |= token_ids_of(model.run.path)
    return json.dumps(values, indent=2) + "\n"


def _generation(files: Mapping[str, bytes]) -> dict[str, str]:
    """The generation config without the keys that our class alone knows."""
    if "generation_config.json" not in files:
        return {}
    values = parse_json(files["generation_config.json"])
    plain = {key: value for key, value in values.items() if key not in OWN_KEYS}
    return {"generation_config.json": json.dumps(plain, indent=2) + "\n"}


def _check_folder(path: Path, *, overwrite: bool) -> None:
    """Raises OutputError where a folder cannot be written, or holds something else."""
    if os.path.lexists(path) and not path.is_dir():
        message, hint = "this is a file, and a model folder is to stand here", "choose another name"
        raise OutputError("cannot-write", message, place=str(path), hint=hint)
    check_no_run(path)
    check_folder(path)
    names = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if not names <= {WEIGHTS_FILE, CONFIG_FILE, *CARRIED}:
        message = "the folder holds something else, which would be lost"
        hint = "choose another folder, or empty this one"
        raise OutputError("folder-taken", message, place=str(path), hint=hint)
    if names and not overwrite:
        message = "a model stands here"
        hint = f"choose another folder, or write over it with {setting('overwrite')}"
        raise OutputError("other-form", message, place=str(path), hint=hint)
