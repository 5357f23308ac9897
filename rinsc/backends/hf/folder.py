"""The folder that transformers loads where there is no rinsc: weights, config, code, tokenizer.

The code is one file that needs torch and transformers alone: the emitted module, the facts of the
model as constants, and the text of our own modules with our imports taken out.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from textwrap import wrap
from typing import Any, TypeAlias

from transformers import GenerationConfig

from rinsc.backends.hf.classifier import RinscForImageClassification, RinscImageProcessor
from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.facts_source import facts_source, is_of_pictures
from rinsc.backends.hf.model import RinscForCausalLM, RinscModel
from rinsc.backends.torch.emit import emit_source
from rinsc.backends.torch.weight_files import write_tensors
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

SHARED_MODULES = (
    "rinsc.storage.weights_digest",
    "rinsc.backends.hf.config",
    "rinsc.backends.hf.starts",
)  # each after what it imports
LANGUAGE_MODULES = (*SHARED_MODULES, "rinsc.backends.hf.caching", "rinsc.backends.hf.model")
PICTURE_MODULES = (*SHARED_MODULES, "rinsc.backends.hf.classifier")
WIDTH = 100

TITLE = '''"""A recursive-depth {what} for transformers, which rinsc compiled of:

{signature}

Load its folder with
``{auto}.from_pretrained(folder, trust_remote_code=True)``;
``rounds``, an argument of {calls}, says how often repeats run.
"""

from __future__ import annotations
'''


def standalone_source(config: RinscConfig) -> str:
    """The file; the same for every config of one spec."""
    imports = Imports()
    pictures = is_of_pictures(config)
    source = emit_source(config.graph, hosted=not pictures, recomputing=pictures)
    emitted = imports.without(source)
    facts = facts_source(config)
    imports.add("typing", "Any", "Literal", "TypeAlias")
    imports.add("collections.abc", "Mapping")
    modules = PICTURE_MODULES if pictures else LANGUAGE_MODULES
    own = [imports.without(module_text(module)) for module in modules]
    what, auto, calls = (
        ("classifier of pictures", "AutoModelForImageClassification", "a forward pass")
        if pictures
        else (
            "language model",
            "AutoModelForCausalLM",
            "a forward pass and of ``generate``",
        )
    )
    signature = wrapped(config.graph.spec.text)
    title = TITLE.format(signature=signature, what=what, auto=auto, calls=calls)
    body = "\n\n\n".join(text.strip("\n") for text in (emitted, facts, *own))
    blank = "\n" * (1 + body.startswith(("class ", "def ", "@")))
    return f"{title}\n{imports.text()}{blank}{body}\n"


def module_text(module: str) -> str:
    """Our own module, without the remarks that its type checker needs."""
    spec = find_spec(module)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(module)
    text = Path(spec.origin).read_text(encoding="utf-8")
    return re.sub(r"  # type: ignore\[[a-z, -]+\]", "", text)


def wrapped(signature: str) -> str:
    """The signature as lines of a docstring."""
    lines = wrap(signature, WIDTH - 4, break_on_hyphens=False)
    return "\n".join(f"    {line}" for line in lines)


@dataclass
class Imports:
    """What the parts import, gathered and sorted as a linter wants them."""

    whole: set[str] = field(default_factory=set)
    names: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def add(self, module: str, *names: str) -> None:
        self.names[module] |= set(names)

    def without(self, source: str) -> str:
        """The source below its docstring and its imports, which are taken over; ours are not."""
        lines = source.split("\n")
        statements = ast.parse(source).body
        imports = [
            statement
            for statement in statements
            if isinstance(statement, ast.Import | ast.ImportFrom)
        ]
        for statement in imports:
            self._take(statement)
        last = imports[-1].end_lineno or 0
        return "\n".join(lines[last:])

    def _take(self, statement: ast.Import | ast.ImportFrom) -> None:
        spelled = {f"{a.name} as {a.asname}" if a.asname else a.name for a in statement.names}
        if isinstance(statement, ast.Import):
            self.whole |= spelled
        elif statement.module not in (None, "__future__") and not _is_rinsc(str(statement.module)):
            self.names[str(statement.module)] |= spelled

    def text(self) -> str:
        """The lines: the standard library, then others."""
        return (
            "\n".join(self._section(standard=True))
            + "\n\n"
            + "\n".join(self._section(standard=False))
            + "\n"
        )

    def _section(self, *, standard: bool) -> Iterator[str]:
        for name in sorted(self.whole):
            if _is_standard(name) is standard:
                yield f"import {name}"
        for module in sorted(self.names):
            if _is_standard(module) is standard:
                yield from _from(module, sorted(self.names[module], key=_by_type))


def _is_rinsc(module: str) -> bool:
    return module.partition(".")[0] == "rinsc"


def _is_standard(module: str) -> bool:
    return re.split(r"[. ]", module)[0] in sys.stdlib_module_names


def _by_type(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, name


def _from(module: str, names: Iterable[str]) -> list[str]:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return [line]
    return [f"from {module} import (", *(f"    {name}," for name in names), ")"]


CODE = "modeling_rinsc"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
GENERATION_FILE = "generation_config.json"
PROCESSOR_FILE = "preprocessor_config.json"
FILES = (WEIGHTS_FILE, CONFIG_FILE, f"{CODE}.py", GENERATION_FILE, PROCESSOR_FILE, CHECKSUMS)
AUTO_MAP = {
    "AutoConfig": f"{CODE}.{RinscConfig.__name__}",
    "AutoModel": f"{CODE}.{RinscModel.__name__}",
    "AutoModelForCausalLM": f"{CODE}.{RinscForCausalLM.__name__}",
}
PICTURE_AUTO_MAP = {
    "AutoConfig": f"{CODE}.{RinscConfig.__name__}",
    "AutoModelForImageClassification": f"{CODE}.{RinscForImageClassification.__name__}",
    # Not in the processor's own config, where transformers would look for one of videos, too.
    "AutoImageProcessor": f"{CODE}.{RinscImageProcessor.__name__}",
}
HostedModel: TypeAlias = RinscForCausalLM | RinscForImageClassification


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
    model: HostedModel, path: Path, files: Mapping[str, bytes]
) -> list[Path]:
    """Write the model, its code and further ``files`` by name; their paths, the weights first.

    The folder is made where it is missing, and takes the place of an old one in one step; files of
    other names are left alone. Raises OutputError; nothing is then changed.
    """
    check_standalone_folder(path)
    texts = {
        CONFIG_FILE: _config_json(model),
        f"{CODE}.py": standalone_source(model.config),
    }
    if isinstance(model, RinscForImageClassification):
        texts[PROCESSOR_FILE] = processor_json(model.config)
    else:
        texts[GENERATION_FILE] = _generation_json(model)
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
        ids_by_key = {
            key: values.get(key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")
        }
    except (OSError, ValueError, AttributeError):
        ids_by_key = {"config": ""}
    for ids in ids_by_key.values():
        listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
        if not all(type(token) is int and 0 <= token < vocab_size for token in listed):
            message = f"the {config.name} is damaged"
            hint = "restore the file, or train the run again"
            raise CheckpointError("bad-config", message, place=str(config), hint=hint)
    return ids_by_key


def processor_json(config: Any) -> str:
    """What makes the inputs of a classifier, for ``AutoImageProcessor``."""
    height, width = config.image_size
    values = {
        # No name of a class: the config leads to it.
        "num_channels": config.num_channels,
        "size": {"height": height, "width": width},
    }
    return json.dumps(values, indent=2, sort_keys=True) + "\n"


def _config_json(model: HostedModel) -> str:
    values: dict[str, Any] = parse_json(model.config.to_json_string())
    auto_map = PICTURE_AUTO_MAP if is_of_pictures(model.config) else AUTO_MAP
    values |= {"architectures": [type(model).__name__], "auto_map": auto_map}
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
    maps = (AUTO_MAP, PICTURE_AUTO_MAP)
    return isinstance(code, dict) and bool(code) and any(code.items() <= m.items() for m in maps)
