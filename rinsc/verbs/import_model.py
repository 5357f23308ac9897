"""`rinsc.import_model`: a folder that transformers wrote becomes a model folder of rinsc.

llama/                          imported/
config.json, *.safetensors  ->  config.json, model.safetensors, modeling_rinsc.py
tokenizer.json, …               the same files
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rinsc.errors import CheckpointError, UsageError, listed, setting
from rinsc.extras import require
from rinsc.progress import Progress, ShownProgress
from rinsc.sources import (
    TowersFamily,
    any_family_of,
    spec_from_config,
    tensors_by_our_names,
    towers_spec_from_config,
    towers_tensors_by_our_names,
)
from rinsc.storage.files import read_json
from rinsc.training.saved_model import MODEL_TYPES
from rinsc.verbs.carried import carried
from rinsc.verbs.forms import (
    Exported,
    HfForm,
    check_no_run,
    hf_facts,
    in_place_of,
    said_written,
)

if TYPE_CHECKING:
    import torch

    from rinsc.sources import AnyFamily
    from rinsc.spec import ModelSpec, TowersSpec

WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.bin.index.json")
OTHER_WEIGHTS = ("*.gguf", "*.msgpack", "*.h5", "*.onnx")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
FLOATS = ("float32", "bfloat16", "float16")


def import_model(
    source: str | os.PathLike[str],
    path: str | os.PathLike[str],
    signature: str | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a folder of transformers as a model folder of rinsc: what ``rinsc import`` does.

    ``source`` has a ``config.json`` of a family that `rinsc.sources` reads, and safetensors, whole
    or in shards. Its stack becomes ``signature``, by default one block. A recursive one shares the
    layers out over its letters and runs the same weights more often. The files of the tokenizer
    and of pictures, and the generation config, are copied. Weights keep their bits.

    Raises `RinscError` for a config that says what is not computed, for tensors that are missing,
    left over or of another shape, and for pickles, which can run code; nothing is then written.
    """
    folder, output = Path(source), Path(path)
    shown = ShownProgress() if progress is None else progress
    if not os.fspath(path):
        message = f"{setting('path', '-o')} is empty"
        raise UsageError("usage", message, hint="name the folder to write")
    checkpoint = Checkpoint.of(folder, signature)
    require("torch", "safetensors", "transformers")
    if isinstance(checkpoint.family, TowersFamily):
        return checkpoint.write_towers(output, shown, overwrite=overwrite)
    from rinsc.backends.hf.folder import check_standalone_folder

    with in_place_of(output, lambda: hf_facts(None), overwrite=overwrite):
        check_no_run(output)
        check_standalone_folder(output)
        return checkpoint.write(output, shown)


@dataclass(frozen=True)
class Checkpoint:
    """A foreign folder, its config read and its spec made; the weights are not read yet."""

    folder: Path
    config: Mapping[str, Any]
    family: AnyFamily
    spec: ModelSpec | TowersSpec

    @classmethod
    def of(cls, folder: Path, signature: str | None) -> Checkpoint:
        config = _config(folder)
        family = any_family_of(config)
        spec: ModelSpec | TowersSpec
        if isinstance(family, TowersFamily):
            spec = towers_spec_from_config(family, config, signature)
        else:
            spec = spec_from_config(family, config, signature)
        return cls(folder, config, family, spec)

    def write(self, output: Path, progress: Progress) -> Exported:
        """Fill the folder, and say what it holds."""
        spec: Any = self.spec  # of one tower
        tensors = self.tensors(_weights(self.folder))
        ids = {key: self.config[key] for key in TOKEN_IDS if key in self.config}
        return write_model(
            *(spec, tensors, ids, carried(self.folder), output),
            precision=_number_format(tensors, self.folder),
            progress=progress,
        )

    def write_towers(self, output: Path, progress: Progress, *, overwrite: bool) -> Exported:
        """The same of several towers."""
        import torch

        from rinsc.backends.torch import to_torch
        from rinsc.verbs.export_towers import FilesBeside, own_contents, write_contents

        files = carried(self.folder)
        tensors = self.tensors(_weights(self.folder))
        spec: Any = self.spec
        with torch.device("meta"):
            module = to_torch(spec)
        own = {name: tensors[module.stored_name(name)] for name in module.state_dict()}
        module.to(_number_format(tensors, self.folder)).load_state_dict(own, assign=True)
        contents = own_contents(module, None, FilesBeside.of(files, spec))
        sizes = write_contents(contents, output, progress, overwrite=overwrite)
        return Exported(output, sizes, HfForm(dial=True), spec.text, contents.rounds)

    def tensors(self, weights: Path) -> dict[str, torch.Tensor]:
        """The tensors under our names; raises `CheckpointError` before one of them is read."""
        from rinsc.backends.torch.weight_files import checked_weights, open_weights
        from rinsc.graph import build_graph

        with checked_weights(weights), open_weights(weights) as file:
            unread = {name: _Header(name, file) for name in file.keys()}  # noqa: SIM118
            graph: Any = build_graph(self.spec)
            ours: Any  # they are read once all fit
            with _errors_at(weights):
                if isinstance(self.family, TowersFamily):
                    ours = towers_tensors_by_our_names(self.family, graph, unread)
                else:
                    ours = tensors_by_our_names(self.family, graph, unread)
            return dict(ours)


def token_ids_of(folder: Path) -> dict[str, Any]:
    """What the config of a model folder says of tokens; a run may say nothing there."""
    try:
        config = read_json(folder / "config.json")
    except (OSError, ValueError):
        return {}
    known = config if isinstance(config, dict) else {}
    return {key: known[key] for key in TOKEN_IDS if known.get(key) is not None}


def write_model(
    spec: ModelSpec,
    tensors: Mapping[str, torch.Tensor],
    token_ids: Mapping[str, Any],
    files: Mapping[str, bytes],
    output: Path,
    *,
    precision: torch.dtype,
    progress: Progress,
) -> Exported:
    """Fill a model folder with tensors under our names and with further files, and say so."""
    import torch

    from rinsc.backends.hf import causal_lm
    from rinsc.backends.hf.folder import write_standalone_folder

    with torch.device("meta"):  # the weights take the place of these
        hosted: Any = causal_lm(spec)
    hosted.to(precision)
    hosted.model.load_state_dict(tensors, assign=True)
    for key, value in token_ids.items():
        setattr(hosted.config, key, value)
    written = write_standalone_folder(hosted, output, files)
    progress.line(said_written(output, written))
    sizes = {path: path.stat().st_size for path in written}
    return Exported(output, sizes, HfForm(), spec.text, hosted.config.rounds_of())


@dataclass(frozen=True)
class _Header:
    """A tensor that is not read: its name and where it is."""

    name: str
    file: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.file.get_slice(self.name).get_shape())

    def read(self) -> torch.Tensor:
        tensor: torch.Tensor = self.file.get_tensor(self.name)
        return tensor


@contextmanager
def _errors_at(weights: Path) -> Iterator[None]:
    """What is wrong with tensors is said of the file that they are in."""
    try:
        yield
    except CheckpointError as error:
        problems = (replace(p, place=p.place or str(weights)) for p in error.problems)
        raise CheckpointError.of(*problems) from None


def _config(folder: Path) -> Mapping[str, Any]:
    """The ``config.json``; raises `CheckpointError`."""
    path = folder / "config.json"
    if not path.is_file():
        message = "there is no config.json, so this is no folder of transformers"
        hint = "name a folder that save_pretrained wrote, or that was downloaded whole"
        raise CheckpointError("not-a-checkpoint", message, place=str(folder), hint=hint)
    try:
        config = read_json(path)
    except (OSError, ValueError) as error:
        message = f"the config.json cannot be read: {str(error)[:100]}"
        raise CheckpointError(
            "cannot-read", message, place=str(path), hint="restore the file"
        ) from None
    if not isinstance(config, dict):
        message, hint = "the config.json holds no object", "restore the file"
        raise CheckpointError("cannot-read", message, place=str(path), hint=hint)
    if config.get("model_type") in MODEL_TYPES:
        message = "this is a model of rinsc already"
        hint = "every command takes the folder as it is"
        raise CheckpointError("own-model", message, place=str(folder), hint=hint)
    return config


def _weights(folder: Path) -> Path:
    """The safetensors, or the index of their shards; raises `CheckpointError`."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    others = {
        "pickles, which can run code": (PICKLES, "save_pretrained of transformers writes them"),
        "of a format that is not read": (OTHER_WEIGHTS, "take the checkpoint of transformers"),
    }
    for what, (patterns, way) in others.items():
        names = sorted(path.name for pattern in patterns for path in folder.glob(pattern))
        if names:
            message = f"the weights are {what}: {listed(names, 2)}"
            hint = f"name a folder with safetensors; {way}"
            raise CheckpointError("no-safetensors", message, place=str(folder), hint=hint)
    message = "there are no weights beside the config.json"
    hint = f"name a folder with {' or '.join(WEIGHTS)}"
    raise CheckpointError("no-weights", message, place=str(folder), hint=hint)


def _number_format(tensors: Mapping[str, torch.Tensor], folder: Path) -> torch.dtype:
    """The one that holds the bits of all tensors; raises `CheckpointError` where none does."""
    import torch

    formats = {tensor.dtype for tensor in tensors.values()}
    known = {getattr(torch, name) for name in FLOATS}
    unknown = sorted(str(dtype).removeprefix("torch.") for dtype in formats - known)
    if unknown:
        message = f"the weights are stored as {listed(unknown, 3)}"
        hint = f"{', '.join(FLOATS)} are read; take a checkpoint that is not quantised"
        raise CheckpointError("unknown-format", message, place=str(folder), hint=hint)
    return formats.pop() if len(formats) == 1 else torch.float32
