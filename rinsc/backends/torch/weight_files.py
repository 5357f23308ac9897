"""Weights as safetensors: block names, one tensor per storage, the model's fingerprint inside."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from rinsc.__about__ import __version__
from rinsc.backends.torch.decoding import HostedModule
from rinsc.backends.torch.module import CompiledModule, CompiledTowers
from rinsc.errors import CheckpointError, Problem, RinscError
from rinsc.fingerprints import fingerprint
from rinsc.graph.build import model_differences
from rinsc.spec import ModelSpec, TowersSpec, spec_from_values, spec_to_toml
from rinsc.spec.reading import towers_from_values
from rinsc.storage.files import atomic_path, parse_json, parse_toml, read_json
from rinsc.storage.weights_digest import DIGEST_KEY, NO_DIGEST, is_damaged, sign_weights

HOST_PREFIX = "model."
MOST_NAMES = 4  # of tensors that differ, in an error
INDEX = ".index.json"
ADAPTER = re.compile(r"\.(base_layer|lora_[A-Za-z_]+|modules_to_save)\.")  # in PEFT's names
METADATA_KEY = "rinsc"
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def save_weights(model: CompiledModule | HostedModule | CompiledTowers, path: str | Path) -> None:
    """Write a module made by `to_torch`; an old file survives a failed write.

    Beside the ``config.json`` of the same model, ``from_pretrained`` of transformers reads it.

    >>> import tempfile
    >>> from rinsc import model_spec, to_torch
    >>> one, other = (to_torch(model_spec("AB", preset="tiny")) for _ in range(2))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_weights(one, f"{folder}/weights.safetensors")
    ...     load_weights(other, f"{folder}/weights.safetensors")
    >>> torch.equal(one.A[0].query.weight, other.A[0].query.weight)
    True
    """
    facts = {
        "version": __version__,
        "fingerprint": fingerprint(model.spec),
        "spec": spec_to_toml(model.spec),
    }
    tensors = {name: tensor.contiguous() for name, tensor in stored_state(model).items()}
    empty = [name for name, tensor in tensors.items() if tensor.is_meta]
    if empty:
        message = f"the weight '{empty[0]}' holds no numbers; it is on the device 'meta'"
        hint = "fill the module first, with load_weights or to_empty and load_state_dict"
        raise CheckpointError("wrong-weights", message, place=str(path), hint=hint)
    with atomic_path(path) as unfinished:
        write_tensors(tensors, unfinished, {METADATA_KEY: json.dumps(facts)})


def stored_state(
    model: CompiledModule | HostedModule | CompiledTowers,
) -> dict[str, torch.Tensor]:
    """The weights of a model under the names of its file, those that towers share once."""
    state = model.state_dict()
    if isinstance(model, CompiledTowers):
        state = {model.stored_name(name): tensor for name, tensor in state.items()}
    return dict(state)


def _under_stored_names(
    model: CompiledModule | HostedModule | CompiledTowers, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The tensors of a file as `stored_state` names them: transformers names the tower of each."""
    if not isinstance(model, CompiledTowers):
        return tensors
    own = model.state_dict().keys()
    return {model.stored_name(n) if n in own else n: tensor for n, tensor in tensors.items()}


def _own_names(
    model: CompiledModule | HostedModule | CompiledTowers, tensors: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """What `stored_state` has taken, under the names of ``state_dict``."""
    if not isinstance(model, CompiledTowers):
        return tensors
    return {name: tensors[model.stored_name(name)] for name in model.state_dict()}


def write_tensors(
    tensors: Mapping[str, torch.Tensor], path: Path, metadata: Mapping[str, str]
) -> None:
    """Write a file of safetensors, tensor by tensor, with a digest of its content; raises OSError.

    The library's own writer holds a second copy of all weights, or leaves a file of another name
    behind when it is killed.
    """
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, Any] = {"__metadata__": {**metadata, DIGEST_KEY: NO_DIGEST}}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        shape, dtype = list(tensor.shape), DTYPES[tensor.dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text = text.ljust(-(-len(text) // 8) * 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, tensor in ordered:
            plain = tensor.detach().cpu().contiguous().reshape(-1)
            file.write(plain.view(torch.uint8).numpy().data)
    sign_weights(path)


def load_weights(model: CompiledModule | HostedModule | CompiledTowers, path: str | Path) -> None:
    """Fill a module made by `to_torch` from a file, also from one of ``save_pretrained``, or from
    the shards that its ``model.safetensors.index.json`` lists.

    Raises `CheckpointError`, with the module unchanged, for a file that cannot be read, is cut
    short, or holds another model's weights: by what the file says, or else the ``config.json``
    beside it, and by names and shapes.

    See `save_weights` for an example.
    """
    path = Path(path)
    with checked_weights(path), open_weights(path) as file:
        facts = _facts((file.metadata() or {}).get(METADATA_KEY, "{}")) or _facts_beside(path)
        tensors = _without_host({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
        tensors = _under_stored_names(model, tensors)
    _require_same_model(model, facts, tensors, path)
    tensors = _own_names(model, tensors)
    if any(weight.is_meta for weight in model.parameters()):
        dtypes = {name: weight.dtype for name, weight in model.state_dict().items()}
        tensors = {name: tensor.to(dtypes[name]) for name, tensor in tensors.items()}
        model.load_state_dict(tensors, assign=True)  # a copy would stay on the device meta
    else:
        model.load_state_dict(tensors)


def tensors_in(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, or of shards, under the names of a module, mapped from the disk.

    Raises `CheckpointError` for a file that cannot be read or is not as it was written.
    """
    with checked_weights(path), open_weights(path) as file:
        return _without_host({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118


@contextmanager
def checked_weights(path: Path) -> Iterator[None]:
    """Compare a file, or the shards of an index, with the digests inside while the body reads.

    Raises `CheckpointError` at the end of the body. A file without a digest, as of rinsc 0.4.0,
    passes.
    """
    files = _shards(path) if path.name.endswith(INDEX) else [path]
    with ThreadPoolExecutor(1) as others:
        damaged = [others.submit(is_damaged, file) for file in files]
        yield
        for file, outcome in zip(files, damaged, strict=True):
            if outcome.result():
                message = "the weights are damaged: the file is not as it was written"
                hint = "copy or export it again; a digest inside the file tells"
                problem = Problem("damaged-weights", message, place=str(file), hint=hint)
                raise CheckpointError.of(problem)


@contextmanager
def open_weights(path: Path) -> Iterator[Any]:
    """A safetensors file, or the shards that a file ``….index.json`` lists, headers read and
    checked; raises `CheckpointError`."""
    with ExitStack() as opened:
        if not path.name.endswith(INDEX):
            yield opened.enter_context(_one_file(path))
            return
        files = [opened.enter_context(_one_file(shard)) for shard in _shards(path)]
        yield _Shards(files)


@contextmanager
def _one_file(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        reason = "the file is damaged or cut short" if path.is_file() else "there is no such file"
        message = f"cannot read the weights: {reason} ({str(error).splitlines()[0]:.120})"
        hint = "name a safetensors file that is whole, such as the model.safetensors of a run"
        problem = Problem("weights-not-readable", message, place=str(path), hint=hint)
        raise CheckpointError.of(problem) from None


def _shards(index: Path) -> list[Path]:
    """The files of a list, each once, all in its folder."""
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        plain = bool(names) and all(Path(name).name == name for name in names)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        plain = False
    if not plain:
        message = "cannot read the weights: this is no list of files in the same folder"
        hint = "restore it, or save the model anew"
        raise CheckpointError("weights-not-readable", message, place=str(index), hint=hint)
    return [index.with_name(name) for name in names]


class _Shards:
    """Several safetensors files as one."""

    def __init__(self, files: list[Any]) -> None:
        self._files = {name: file for file in files for name in file.keys()}  # noqa: SIM118

    def keys(self) -> list[str]:
        return list(self._files)

    def metadata(self) -> dict[str, str]:
        """Nothing of a single shard says whose weights they are together."""
        return {}

    def get_tensor(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._files[name].get_tensor(name)
        return tensor

    def get_slice(self, name: str) -> Any:
        return self._files[name].get_slice(name)


def _without_host(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the module's own names: transformers writes ``model.`` before each."""
    if not all(name.startswith(HOST_PREFIX) for name in tensors):
        return tensors
    return {name.removeprefix(HOST_PREFIX): tensor for name, tensor in tensors.items()}


def _facts(text: str) -> dict[str, Any]:
    """What `save_weights` wrote about the file; nothing for a file of other origin."""
    try:
        facts = parse_json(text)
    except ValueError:
        return {}
    return facts if isinstance(facts, dict) else {}


def _facts_beside(path: Path) -> dict[str, Any]:
    """What the ``config.json`` beside a file says, where it is of a model of ours: neither a file
    of transformers nor a single shard says whose weights it has."""
    try:
        spec = _spec_from_values(read_json(path.with_name("config.json"))["spec"])
    except (OSError, ValueError, LookupError, TypeError, RinscError):
        return {}
    return {"fingerprint": fingerprint(spec), "spec": spec_to_toml(spec)}


def _spec_from_values(values: Any) -> ModelSpec | TowersSpec:
    has_towers = isinstance(values, Mapping) and "towers" in values
    return towers_from_values(values) if has_towers else spec_from_values(values)


def _require_same_model(
    model: CompiledModule | HostedModule | CompiledTowers,
    facts: Mapping[str, object],
    tensors: dict[str, torch.Tensor],
    path: Path,
) -> None:
    """Fingerprints where the file has one; names and shapes in any case."""
    expected = fingerprint(model.spec)
    own = {name: tuple(tensor.shape) for name, tensor in stored_state(model).items()}
    in_file = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if facts.get("fingerprint") in (expected, None) and own == in_file:
        return
    if any(ADAPTER.search(name) for name in in_file):
        message = "the weights hold an adapter of PEFT that is not merged"
        hint = "merge it before you save: merge_lora(peft_model).save_pretrained(FOLDER)"
        raise CheckpointError("unmerged-adapter", message, place=str(path), hint=hint)
    names = sorted(own.keys() | in_file.keys())
    differing = [name for name in names if own.get(name) != in_file.get(name)]
    detail = settings_that_differ(facts.get("spec"), model.spec) or "their schedules differ"
    if differing:
        shown = ", ".join(f"'{name}'" for name in differing[:MOST_NAMES])
        more = f" and {len(differing) - MOST_NAMES} more" if len(differing) > MOST_NAMES else ""
        tensors_differ = f"they differ at {shown}{more}"
        detail = f"{detail}; {tensors_differ}" if facts.get("spec") else tensors_differ
    raise CheckpointError(
        "weights-of-another-model",
        f"the weights belong to another model than '{model.spec.text}': {detail}",
        place=str(path),
        hint="compile the spec that the file was written for: its metadata or config.json",
    )


def settings_that_differ(written: object, spec: ModelSpec | TowersSpec) -> str:
    """How a model differs from the spec that a file has; empty where nobody can tell."""
    if isinstance(spec, TowersSpec):
        return ""
    try:
        of_file = spec_from_values(parse_toml(str(written or "")))
    except (ValueError, LookupError, TypeError, RinscError):
        return ""
    return "; ".join(model_differences(of_file, spec))
