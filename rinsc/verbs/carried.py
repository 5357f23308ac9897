"""The files beside the weights of a model that travel with it: tokenizer, processor, templates."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rinsc.errors import CheckpointError
from rinsc.storage.files import parse_json, read_regular

CARRIED = (  # as they are: what says how text and pictures become inputs
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.model", "spiece.model", "vocab.json", "merges.txt", "chat_template.jinja"),
    *("generation_config.json", "preprocessor_config.json", "processor_config.json"),
)
MAX_CARRIED_BYTES = 1 << 28
CODE = "auto_map"  # the key by which a file names code that is to be run


def carried(folder: Path, *, without_code: bool = False) -> dict[str, bytes]:
    """The files of ``folder`` that travel along, by name.

    Raises `CheckpointError` for one that cannot be read, and for one that names code, unless that
    is to be left out.
    """
    paths = {name: folder / name for name in CARRIED if os.path.lexists(folder / name)}
    return {name: _content(path, without_code) for name, path in paths.items()}


def _content(path: Path, without_code: bool) -> bytes:
    try:
        content = read_regular(path, MAX_CARRIED_BYTES + 1)
        if len(content) > MAX_CARRIED_BYTES:
            raise ValueError(f"it has more than {MAX_CARRIED_BYTES} bytes")
        values: Any = parse_json(content) if path.suffix == ".json" else None
    except (OSError, ValueError) as error:
        message = f"the file cannot be read: {str(error)[:100]}"
        hint = "restore it, or remove it"
        raise CheckpointError("cannot-read", message, place=str(path), hint=hint) from None
    if not isinstance(values, dict) or not values.get(CODE):
        return content
    if not without_code:
        message = f"the file names code that is to be run ({CODE})"
        hint = "take a tokenizer that transformers knows, or remove that key"
        raise CheckpointError("foreign-code", message, place=str(path), hint=hint)
    del values[CODE]
    return (json.dumps(values, indent=2, ensure_ascii=False) + "\n").encode("utf-8")
