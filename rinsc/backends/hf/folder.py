"""The folder that transformers loads where there is no rinsc: weights, config, code, tokenizer."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from transformers import GenerationConfig

from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.model import RinscForCausalLM, RinscModel
from rinsc.backends.hf.standalone import standalone_source
from rinsc.errors import CheckpointError, OutputError, Problem
from rinsc.files import (
    atomic_path,
    check_folder,
    check_writable,
    made_folder,
    parse_json,
    read_json,
)
from rinsc.text import ENDS_OF_DOCUMENT, PADDING

CODE = "modeling_rinsc"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
TOKENIZER_FILE = "tokenizer.json"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
FILES = (WEIGHTS_FILE, CONFIG_FILE, f"{CODE}.py", GENERATION_FILE)
TOKENIZER_FILES = (TOKENIZER_FILE, TOKENIZER_CONFIG_FILE)
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
        raise OutputError(Problem("cannot-write", message, place=str(path), hint=hint))
    check_folder(path)
    names = (*FILES, *TOKENIZER_FILES)
    if any(os.path.lexists(path / name) for name in names) and not _is_ours(path / CONFIG_FILE):
        message = "the folder holds something else, whose files would be written over"
        hint = "choose another folder, or empty this one"
        raise OutputError(Problem("folder-taken", message, place=str(path), hint=hint))
    if path.is_dir():
        for name in names:
            check_writable(path / name)


def write_standalone_folder(
    model: RinscForCausalLM, path: Path, files: Mapping[str, bytes]
) -> list[Path]:
    """Write the model, its code and further ``files`` by name; their paths, the weights first.

    The folder is made where it is missing. Every file is complete before the first takes its
    name, and files of other names are left alone. Raises OutputError; nothing is then changed.
    """
    check_standalone_folder(path)
    texts = {
        CONFIG_FILE: _config_json(model, files),
        f"{CODE}.py": standalone_source(model.config),
        GENERATION_FILE: _generation_json(model.config),
    }
    contents = {name: text.encode("utf-8") for name, text in texts.items()} | dict(files)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    with made_folder(path), ExitStack() as writing:
        weights = writing.enter_context(atomic_path(path / WEIGHTS_FILE))
        save_file(tensors, weights, metadata={"format": "pt"})
        for name, content in contents.items():
            writing.enter_context(atomic_path(path / name)).write_bytes(content)
    return [path / name for name in (WEIGHTS_FILE, *contents)]


def tokenizer_config(context: int, tokenizer: str) -> str:
    """What ``AutoTokenizer`` is to make of a tokenizer.json, of this text, as JSON."""
    values: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "backend": "tokenizers"}
    values["model_max_length"] = context
    values |= {f"{use}_token": token for use, (token, _) in special_tokens(tokenizer).items()}
    return json.dumps(values, indent=2) + "\n"


def plain_tokenizer_config(path: Path) -> str:
    """A tokenizer_config.json without what names code: the folder is loaded with
    ``trust_remote_code``, which is meant for our code alone. Raises CheckpointError."""
    try:
        values = read_json(path)
        plain = {key: value for key, value in values.items() if key != "auto_map"}
    except (OSError, ValueError, AttributeError, RecursionError):
        message, hint = f"the {path.name} is damaged", "restore the file, or remove it"
        raise CheckpointError(
            Problem("bad-tokenizer", message, place=str(path), hint=hint)
        ) from None
    return json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def special_token_ids(tokenizer: str) -> dict[str, int]:
    """The keys of a config that say which tokens end a text and fill a batch."""
    return {f"{use}_token_id": number for use, (_, number) in special_tokens(tokenizer).items()}


def special_tokens(tokenizer: str) -> dict[str, tuple[str, int]]:
    """The tokens that end a text (``eos``) and fill a batch (``pad``), as far as a tokenizer.json
    has some; what ends a text fills a batch where nothing else does.

    Raises CheckpointError for a text that is no tokenizer.json.
    """
    try:
        added = parse_json(tokenizer).get("added_tokens") or []
        special = {token["content"]: token["id"] for token in added if token.get("special")}
    except (ValueError, AttributeError, KeyError, TypeError):
        message = "the tokenizer.json is damaged"
        hint = "restore the file, or train the run again"
        raise CheckpointError(Problem("bad-tokenizer", message, hint=hint)) from None
    found = {}
    for use, names in (("eos", ENDS_OF_DOCUMENT), ("pad", (*PADDING, *ENDS_OF_DOCUMENT))):
        name = next((name for name in names if name in special), None)
        if name is not None:
            found[use] = (name, special[name])
    return found


def _config_json(model: RinscForCausalLM, files: Mapping[str, bytes]) -> str:
    values: dict[str, Any] = parse_json(model.config.to_json_string())
    if TOKENIZER_FILE in files:
        values |= special_token_ids(files[TOKENIZER_FILE].decode("utf-8"))
    values |= {"architectures": [RinscForCausalLM.__name__], "auto_map": AUTO_MAP}
    values["dtype"] = str(model.dtype).removeprefix("torch.")
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _generation_json(config: RinscConfig) -> str:
    """Where ``rounds`` may be added: they are ignored in a file that is marked as derived."""
    generation = GenerationConfig.from_model_config(config)
    generation._from_model_config = False
    return str(generation.to_json_string())


def _is_ours(config: Path) -> bool:
    try:
        values = read_json(config)
    except (OSError, ValueError):
        return False
    code = values.get("auto_map") if isinstance(values, dict) else None
    return isinstance(code, dict) and bool(code) and code.items() <= AUTO_MAP.items()
