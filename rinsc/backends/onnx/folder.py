"""The model folder: an exported model and what belongs to it, written as a whole."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.backends.onnx.integrity import TOKENIZER_KEY, data_files, left_data_files
from rinsc.backends.onnx.loading import MODEL_FILE
from rinsc.errors import OutputError, Problem
from rinsc.files import atomic_path, check_folder, check_writable
from rinsc.folders import replace_contents
from rinsc.tokenizer_files import (
    GENERATION_FILE,
    TEMPLATE_FILE,
    TOKENIZER_CONFIG_FILE,
    TOKENIZER_FILE,
)

if TYPE_CHECKING:
    from rinsc.backends.onnx.file import OnnxModel

DATA_FILE = f"{MODEL_FILE}.data"  # the weights, in pages that a runtime can map
CONFIG_FILE = "genai_config.json"
# Beside those of every model: what an earlier one left here would be taken for the new one's.
OTHER_FILES = {CONFIG_FILE, TOKENIZER_CONFIG_FILE, TEMPLATE_FILE, GENERATION_FILE}
HELD_OUT_FILE = "heldout.txt"  # a sample of text that the model was not trained on


def check_model_folder(path: Path, names: Collection[str] = ()) -> None:
    """Raises OutputError where `write_model_folder` could not write files of these names.

    Nothing is changed.
    """
    _require_no_file(path)
    check_folder(path)
    if path.is_dir():
        for name in (MODEL_FILE, DATA_FILE, *names):
            check_writable(path / name)


def write_model_folder(model: OnnxModel, path: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write the model and further ``files`` by name; their paths, the model's first.

    The folder is made where it is missing, and takes the place of an old one in one step. Files of
    other names are left alone, but for those that an earlier model left: its weights, and those of
    `OTHER_FILES`. Raises OutputError, with the old folder as it was.
    """
    _require_no_file(path)
    names = (MODEL_FILE, DATA_FILE, *files)
    if TOKENIZER_FILE in files:
        model.metadata[TOKENIZER_KEY] = hashlib.sha256(files[TOKENIZER_FILE]).hexdigest()

    def write(folder: Path) -> None:
        with ExitStack() as writing:  # every file is complete before the first takes its name
            for name, content in files.items():
                writing.enter_context(atomic_path(folder / name)).write_bytes(content)
            model.save(folder / MODEL_FILE, external_data_over=0)

    old = {each.name for each in left_data_files(path / MODEL_FILE)} | OTHER_FILES
    replace_contents(path, write, names, old - set(names))
    data = sorted(data_files(path / MODEL_FILE))
    return [path / MODEL_FILE, *data, *(path / name for name in files)]


def _require_no_file(path: Path) -> None:
    if os.path.lexists(path) and not path.is_dir():
        message = "this is a file, and a model folder is to stand here"
        hint = "choose another name, or one with a suffix, as model.onnx, for a file"
        raise OutputError(Problem("cannot-write", message, place=str(path), hint=hint))
