"""Folders that transformers loads, read without transformers: what ``save_pretrained`` or
``rinsc compile --to hf`` wrote, from ``config.json`` to its shards."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rinsc.errors import CheckpointError, GraphError
from rinsc.graph import Rounds, build_graph
from rinsc.graph.rounds import plain_rounds
from rinsc.graph.towers_graph import rounds_of
from rinsc.layers import model_input
from rinsc.spec import ModelSpec, model_spec, spec_from_values
from rinsc.spec.reading import towers_from_values
from rinsc.storage.files import file_digest, read_json
from rinsc.storage.weights_digest import is_config_changed
from rinsc.training.run_folder import RunFolder

MODEL_TYPE = "rinsc"  # of RinscConfig
TOWERS_TYPE = "rinsc_siglip"  # of RinscSiglipConfig
MODEL_TYPES = (MODEL_TYPE, TOWERS_TYPE)
ADAPTER = "adapter_config.json"  # of PEFT
SOFT_PROMPTS = ("PROMPT", "P_TUNING", "PREFIX", "CPT", "CARTRIDGE")  # within names of its methods


def is_saved_model(folder: RunFolder) -> bool:
    """Whether a model of ours lies here, and no run that it came from."""
    if folder.model_spec.is_file() or not folder.hf_config.is_file():
        return False
    try:
        values = read_json(folder.hf_config)
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("model_type") in MODEL_TYPES


def folder_spec(folder: RunFolder) -> ModelSpec:
    """The spec of a run or of a saved model; raises SpecError, and CheckpointError.

    A folder of towers has that of towers, which few callers take.
    """
    if folder.model_spec.is_file():
        return model_spec(folder.model_spec)
    config, location = _config(folder), str(folder.hf_config)
    if config.get("model_type") == TOWERS_TYPE and isinstance(config.get("spec"), dict):
        return towers_from_values(config["spec"], location)  # type: ignore[return-value]
    return spec_from_values(config.get("spec"), location)


def saved_rounds(folder: RunFolder) -> Rounds:
    """The rounds that a saved model runs where none are asked; None for those written.

    Raises CheckpointError for rounds that it does not have.
    """
    if not is_saved_model(folder):
        return None
    rounds: Rounds = plain_rounds(_config(folder).get("rounds"))
    try:
        rounds_of(build_graph(folder_spec(folder)), rounds)
    except GraphError as error:
        location = str(folder.hf_config)
        problems = (replace(problem, place=location) for problem in error.problems)
        raise CheckpointError.of(*problems) from None
    return rounds


def picture_shape(folder: RunFolder) -> tuple[int, int, int]:
    """Height, width and channels of the pictures that a saved classifier takes; raises
    CheckpointError."""
    config = _config(folder)
    size, channels = config.get("image_size"), config.get("num_channels")
    numbers = [*size, channels] if isinstance(size, list) and len(size) == 2 else []
    if len(numbers) != 3 or not all(type(n) is int and 0 < n < 2**31 for n in numbers):
        message, hint = "image_size and num_channels say no shape of pictures", "restore the file"
        location = str(folder.hf_config)
        raise CheckpointError("bad-picture-shape", message, place=location, hint=hint)
    return numbers[0], numbers[1], numbers[2]


def picture_patches(folder: RunFolder, spec: ModelSpec) -> int:
    """Into how many patches a saved classifier cuts a picture."""
    height, width, channels = picture_shape(folder)
    return height * width * channels // int(model_input(spec).shape[-1])


def picture_labels(folder: RunFolder, classes: int) -> list[str]:
    """The names of the classes of a saved classifier; their numbers where it has no names."""
    names = _config(folder).get("id2label")
    names = names if isinstance(names, dict) else {}
    return [str(names.get(str(index), index)) for index in range(classes)]


def refuse_adapter(folder: RunFolder) -> None:
    """Raises CheckpointError for a folder with an adapter of PEFT beside, or without, a model."""
    path = folder.path / ADAPTER
    if not os.path.isfile(path):  # of any length
        return
    try:
        method = str(read_json(path).get("peft_type"))
    except (OSError, ValueError, AttributeError):
        method = "unknown"
    message = f"the folder holds an adapter of PEFT ({method:.40}), which is not in the weights yet"
    hint = f"merge it: merge_lora(PeftModel.from_pretrained(model, '{folder.path}'))"
    if method != "LORA":
        hint = "merge it with PEFT: merge_and_unload()"
    hint += ".save_pretrained('merged'), and name that folder"
    if any(name in method for name in SOFT_PROMPTS):
        hint = "a soft prompt cannot be merged: run the model with PEFT, or fine-tune with LoRA"
    raise CheckpointError("unmerged-adapter", message, place=str(folder.path), hint=hint)


def _config(folder: RunFolder) -> Mapping[str, Any]:
    try:
        values = read_json(folder.hf_config)
    except (OSError, ValueError):
        values = None
    if not isinstance(values, dict):
        message, hint = (
            "this config.json cannot be read",
            "restore the file, or save the model anew",
        )
        raise CheckpointError("cannot-read", message, place=str(folder.hf_config), hint=hint)
    if is_config_changed(folder.path):
        message = "the spec or the rounds in this config.json are not as they were written"
        hint = "restore the file; if you changed it yourself, remove checksums.json"
        raise CheckpointError("damaged-config", message, place=str(folder.hf_config), hint=hint)
    return values


def check_tokenizer_file(folder: RunFolder) -> None:
    """Raises CheckpointError where the list of digests says otherwise of the tokenizer.json."""
    name = folder.tokenizer.name
    try:
        listed = read_json(folder.checksums) if os.path.isfile(folder.checksums) else {}
        digest = dict(listed).get(name)
    except (OSError, ValueError, TypeError):
        message = "the list of digests cannot be read"
        hint = "restore the file, or remove it"
        raise CheckpointError(
            "damaged-checksums", message, place=str(folder.checksums), hint=hint
        ) from None
    try:
        changed = digest is not None and digest != file_digest(folder.tokenizer)
    except OSError:
        changed = True
    if changed:
        message = "the tokenizer.json is not as it was written"
        hint = "restore the file; if you changed it yourself, remove checksums.json"
        location = str(folder.tokenizer)
        raise CheckpointError("damaged-tokenizer", message, place=location, hint=hint)


def saved_model_hint(path: Path) -> str:
    """What to do about a folder of which nothing is ours."""
    if (path / "config.json").is_file():
        return f"import it first: rinsc import {path} -o FOLDER"
    train = "train one: rinsc train '(A^3)B' --data plays -o FOLDER"
    return f"{train}; or import one of transformers: rinsc import MODEL -o FOLDER"
