"""The folder that transformers loads where there is no rinsc: weights, config, code, tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from transformers import GenerationConfig

from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.model import RinscForCausalLM, RinscModel
from rinsc.backends.hf.standalone import standalone_source
from rinsc.backends.torch.weights import write_tensors
from rinsc.errors import CheckpointError, OutputError
from rinsc.storage.files import (
    atomic_path,
    check_folder,
    check_writable,
    parse_json,
    read_json,
)
from rinsc.storage.folders import replace_contents
from rinsc.storage.weights_digest import CHECKSUMS, MODEL_ENTRY, config_digest
from rinsc.text.tokenizer_files import TOKENIZER_FILE, TOKENIZER_FILES

CODE = "modeling_rinsc"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
FILES = (WEIGHTS_FILE, CONFIG_FILE, f"{CODE}.py", GENERATION_FILE, CHECKSUMS)
AUTO_MAP = {
    "AutoConfig": f"{CODE}.{RinscConfig.__name__}",
    "AutoModel": f"{CODE}.{RinscModel.__name__}",
    "AutoModelForCausalLM": f"{CODE}.{RinscForCausalLM.__name__}",
}


def check_standalone_folder(path: Path) -> None:
    """Raises OutputError where `write_standalone_folder` could not write; nothing is changed."""
    if os.path.lexists(path) and not path.is_dir():
        message = "this is a file, and a model folder is to stand here"
        hint = "choose another name"
        raise OutputError("cannot-write", message, place=str(path), hint=hint)
    check_folder(path)
    names = (*FILES, *TOKENIZER_FILES)
    if any(os.path.lexists(path / name) for name in names) and not _is_ours(path / CONFIG_FILE):
        message = "the folder holds something else, whose files would be written over"
        hint = "choose another folder, or empty this one"
        raise OutputError("folder-taken", message, place=str(path), hint=hint)
    if path.is_dir():
        for name in names:
            check_writable(path / name)


def write_standalone_folder(
    model: RinscForCausalLM, path: Path, files: Mapping[str, bytes]
) -> list[Path]:
    """Write the model, its code and further ``files`` by name; their paths, the weights first.

    The folder is made where it is missing, and takes the place of an old one in one step; files of
    other names are left alone. Raises OutputError; nothing is then changed.
    """
    check_standalone_folder(path)
    texts = {
        CONFIG_FILE: _config_json(model),
        f"{CODE}.py": standalone_source(model.config),
        GENERATION_FILE: _generation_json(model),
    }
    listed = {MODEL_ENTRY: config_digest(parse_json(texts[CONFIG_FILE]))}
    listed |= {
        name: hashlib.sha256(content).hexdigest()
        for name, content in files.items()
        if name == TOKENIZER_FILE
    }
    texts[CHECKSUMS] = json.dumps(listed, indent=2) + "\n"
    contents = {name: text.encode("utf-8") for name, text in texts.items()} | dict(files)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}

    def write(folder: Path) -> None:
        with ExitStack() as writing:  # every file is complete before the first takes its name
            weights = writing.enter_context(atomic_path(folder / WEIGHTS_FILE))
            write_tensors(tensors, weights, {"format": "pt"})
            for name, content in contents.items():
                writing.enter_context(atomic_path(folder / name)).write_bytes(content)

    replace_contents(path, write, (WEIGHTS_FILE, *contents), ())
    return [path / name for name in (WEIGHTS_FILE, *contents)]


def token_ids(config: Path, vocab_size: int) -> dict[str, int | list[int] | None]:
    """What a config.json says of the tokens that begin and end a text and fill a batch.

    Raises CheckpointError for a file that cannot be read and for ids outside the vocabulary.
    """
    try:
        values = read_json(config)
        found = {key: values.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    except (OSError, ValueError, AttributeError):
        found = {"config": ""}
    for ids in found.values():
        listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
        if not all(type(each) is int and 0 <= each < vocab_size for each in listed):
            message = f"the {config.name} is damaged"
            hint = "restore the file, or train the run again"
            raise CheckpointError("bad-config", message, place=str(config), hint=hint)
    return found


def _config_json(model: RinscForCausalLM) -> str:
    values: dict[str, Any] = parse_json(model.config.to_json_string())
    values |= {"architectures": [RinscForCausalLM.__name__], "auto_map": AUTO_MAP}
    values["dtype"] = str(model.dtype).removeprefix("torch.")
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _generation_json(model: RinscForCausalLM) -> str:
    """The config's ids, and the ids without a token that generation is to leave out.

    ``rounds`` may be added: they are ignored in a file that is marked as derived.
    """
    generation = GenerationConfig.from_model_config(model.config)
    generation._from_model_config = False
    if model.generation_config is not None:
        generation.suppress_tokens = model.generation_config.suppress_tokens
    return str(generation.to_json_string())


def _is_ours(config: Path) -> bool:
    try:
        values = read_json(config)
    except (OSError, ValueError):
        return False
    code = values.get("auto_map") if isinstance(values, dict) else None
    return isinstance(code, dict) and bool(code) and code.items() <= AUTO_MAP.items()
