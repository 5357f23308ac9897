"""What a verb takes as a model: a signature, a spec, a module, or the folder of a trained one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rinsc.errors import CheckpointError, RinscError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import nn

    from rinsc.backends.torch import CompiledModule
    from rinsc.graph import BlockGraph, Rounds
    from rinsc.spec import ModelSpec, TowersSpec
    from rinsc.syntax import NormalForm, Signature
    from rinsc.syntax.tree import Towers
    from rinsc.training.run_folder import RunFolder


def is_run(model: str) -> bool:
    """Whether the text names a folder rather than a signature or a file.

    What is a signature stays one, whatever folders there are; ``./A`` is the folder.
    """
    if os.path.isdir(model):
        return os.sep in model or not is_signature(model)
    return os.sep in model and not os.path.splitext(model)[1]


def is_signature(text: str) -> bool:
    """Whether the text can be read as a signature."""
    from rinsc.syntax import parse

    try:
        parse(text)
    except RinscError:
        return False
    return True


def find_run(text: str) -> RunFolder:
    """The folder of a run, finished or not, or of a model that transformers has saved.

    Raises CheckpointError, also for an adapter that is not merged.
    """
    from rinsc.training.run_folder import RunFolder
    from rinsc.training.saved_model import is_saved_model, refuse_adapter, saved_model_hint

    folder = RunFolder(Path(text))
    refuse_adapter(folder)
    if not folder.model_spec.is_file() and not is_saved_model(folder):
        message = "this is not the folder of a training run, nor of a model that was saved"
        hint = saved_model_hint(folder.path)
        raise CheckpointError("not-a-run", message, place=text, hint=hint)
    return folder


def open_run(text: str) -> RunFolder:
    """The folder of a finished run or of a saved model, with its weights; raises
    CheckpointError."""
    from rinsc.training.run_folder import check_files
    from rinsc.training.saved_model import check_tokenizer_file, is_saved_model

    folder = find_run(text)
    if folder.weights.is_file():
        check_files(folder)
        if is_saved_model(folder):
            check_tokenizer_file(folder)
        return folder
    if not folder.model_spec.is_file():
        message = "the folder has a config.json and no model.safetensors"
        hint = f"write the weights there: model.save_pretrained('{text}')"
        raise CheckpointError("no-weights", message, place=text, hint=hint)
    message = "this run has not been finished; it has no weights yet"
    hint = "finish it: the same rinsc train command goes on"
    raise CheckpointError("unfinished-run", message, place=text, hint=hint)


def is_model_folder(text: str) -> bool:
    """Whether a run, a saved model or an adapter lies there, to be opened or refused."""
    from rinsc.training.run_folder import RunFolder
    from rinsc.training.saved_model import ADAPTER, is_saved_model

    folder = RunFolder(Path(text))
    if not os.path.isdir(text):
        return False
    names = (folder.model_spec, folder.path / ADAPTER)
    return any(path.is_file() for path in names) or is_saved_model(folder)


def run_spec(folder: RunFolder) -> ModelSpec:
    """The spec of a run or of a saved model."""
    from rinsc.training.saved_model import folder_spec

    return folder_spec(folder)


def own_rounds(folder: RunFolder | None) -> Rounds:
    """The rounds that a saved model runs where none are asked; None for those written."""
    from rinsc.training.saved_model import saved_rounds

    return None if folder is None else saved_rounds(folder)


def run_model(folder: RunFolder) -> CompiledModule:
    """The trained module of a run."""
    from rinsc.backends.torch import load_weights, to_torch

    model = to_torch(run_spec(folder))
    load_weights(model, folder.weights)
    return model


def run_trained_rounds(folder: RunFolder, graph: BlockGraph) -> Mapping[str, int]:
    """The most rounds of every repeat in this run: as it was told, else by the signature. Of a
    saved model those that its config says are trained."""
    from rinsc.graph import resolve_rounds, trained_rounds
    from rinsc.storage.files import read_regular_text
    from rinsc.training.config import config_from_toml
    from rinsc.training.schedules import told_rounds

    if not folder.config.is_file():
        return trained_rounds(graph) | resolve_rounds(graph, own_rounds(folder))
    text = read_regular_text(folder.config, "replace")
    config = config_from_toml(text, place=str(folder.config))
    return trained_rounds(graph) | told_rounds(graph, config)


@dataclass(frozen=True)
class Model:
    """A spec, and where its weights are: in a module, a run or a file, else fresh from a seed."""

    spec: ModelSpec
    run: RunFolder | None = None
    module: nn.Module | None = None
    weights: Path | None = None
    seed: int = 0

    @property
    def has_weights(self) -> bool:
        return (self.run, self.module, self.weights) != (None, None, None)

    @property
    def file(self) -> Path | None:
        """Where the weights are read from: the file that is named, else the run's own."""
        if self.weights is not None or self.run is None:
            return self.weights
        return self.run.weights

    @property
    def tokenizer(self) -> Path | None:
        """The run's, where there is one."""
        if self.run is None or not self.run.tokenizer.is_file():
            return None
        return self.run.tokenizer

    def check_weights(self) -> None:
        """Raises CheckpointError for a file that cannot be read, before a model is built."""
        from rinsc.backends.torch.weight_files import open_weights

        if self.file is not None:
            with open_weights(self.file):
                pass

    def compiled(self) -> CompiledModule:
        """The module with its weights."""
        import torch

        from rinsc.backends.torch import CompiledModule, load_weights, to_torch
        from rinsc.backends.torch.module import CompiledTowers

        if isinstance(self.module, CompiledModule | CompiledTowers):
            return self.module  # type: ignore[return-value]  # whose caller has seen the spec
        if self.module is not None:  # of transformers, which holds the same weights
            module = to_torch(self.spec)
            module.load_state_dict(self.module.state_dict())
            return module
        self.check_weights()
        torch.manual_seed(self.seed)
        module = to_torch(self.spec)
        if self.file is not None:
            load_weights(module, self.file)
        return module


def find_model(
    model: object, *, weights: str | os.PathLike[str] | None = None, seed: int = 0
) -> Model:
    """The model that text, a path, a spec, a run folder or a module stands for.

    Raises what `model_spec` and `open_run` raise, and UsageError for anything else.
    """
    from rinsc.spec import ModelSpec, TowersSpec, model_spec

    file = None if weights is None else Path(weights)
    if isinstance(model, ModelSpec | TowersSpec):
        # `export` alone takes towers, and says so of what it cannot do with them.
        return Model(cast(ModelSpec, model), weights=file, seed=seed)
    if isinstance(model, str | os.PathLike):
        text = os.fspath(model)
        if is_run(text) or (isinstance(model, os.PathLike) and os.path.isdir(text)):
            folder = open_run(text)
            return Model(run_spec(folder), run=folder, weights=file, seed=seed)
        return Model(model_spec(text), weights=file, seed=seed)
    module: Any = model if hasattr(model, "graph") else getattr(model, "model", None)
    if not hasattr(module, "graph") or not hasattr(module, "state_dict"):
        message = f"this is no model: {type(model).__name__}"
        hint = "give a signature, a spec, a module of to_torch, or the folder of a run"
        raise UsageError("not-a-model", message, hint=hint)
    if file is not None:
        message = "a module has weights of its own"
        raise UsageError("usage", message, hint="leave weights out, or give the module's spec")
    return Model(module.graph.spec, module=module, seed=seed)


def describe(model: Signature | Towers | ModelSpec | TowersSpec) -> dict[str, object]:
    """What there is to say of a model as plain data: its spellings, fingerprint, blocks, visits.

    Without dimensions the fingerprint is that of the text alone. ``shared`` is of towers: what
    several of them visit. ``notes`` are what a reader may stumble over.
    """
    from rinsc.spec import ModelSpec, TowersSpec
    from rinsc.syntax import Signature, canonical, normal_form, to_text
    from rinsc.syntax.canonical import canonical_towers
    from rinsc.syntax.towers import tower_signatures
    from rinsc.syntax.unexpected import notes_on

    spec = model if isinstance(model, ModelSpec | TowersSpec) else None
    text = model.signature if isinstance(model, ModelSpec | TowersSpec) else model
    is_one = isinstance(text, Signature)
    trees = {"": text} if isinstance(text, Signature) else tower_signatures(text)
    specs = {"": spec} if isinstance(spec, ModelSpec) else {} if spec is None else spec.towers
    forms = {
        name: specs[name].normal if specs else normal_form(tree) for name, tree in trees.items()
    }
    visits = {name: [ref.letter for ref in form.visits] for name, form in forms.items()}
    users: dict[str, list[str]] = {}
    for name, letters in visits.items():
        for letter in dict.fromkeys(letters):
            users.setdefault(letter, []).append(name)
    shared = [block for block, names in users.items() if len(names) > 1]
    sizes = {block: size for spec in specs.values() for block, size in spec.parts.items()}
    heavy = _heavy_adapters(text, specs.get("")) if isinstance(text, Signature) else None
    notes = [note for tree in trees.values() for note in notes_on(tree)]
    return {
        "signature": to_text(text),
        "canonical": canonical(text) if isinstance(text, Signature) else canonical_towers(text),
        "fingerprint": _identity(spec, forms),
        "fingerprint_of": "signature" if spec is None else "model",
        "blocks": list(users),
        **({} if is_one else {"shared": shared}),
        "layers": sizes if specs else None,
        "visits": sum(map(len, visits.values())),
        "notes": [*notes, *([] if heavy is None else [heavy])],
        **({} if heavy is None else {"heavy": heavy}),
    }


def _identity(spec: ModelSpec | TowersSpec | None, forms: Mapping[str, NormalForm]) -> str:
    """The fingerprint of a spec; without dimensions, of what its towers visit."""
    from rinsc.storage.files import short_digest
    from rinsc.syntax.identity import identity_of_towers

    if spec is None:
        return short_digest(identity_of_towers(forms, {}).text)
    from rinsc.fingerprints import fingerprint

    return fingerprint(spec)


def _heavy_adapters(signature: Signature, spec: ModelSpec | None) -> str | None:
    """Words for adapters that are not light, at the dimensions given or else at the presets."""
    from rinsc.syntax.tree import repeats

    if not any(o.name == "adapter" for repeat in repeats(signature.body) for o in repeat.options):
        return None  # and there is no graph to build
    from rinsc.cost.params import adapter_share, heavy_at_presets, heavy_note
    from rinsc.graph import build_graph

    if spec is None:
        return heavy_at_presets(signature)
    return heavy_note(spec, adapter_share(build_graph(spec)))


def free_names(model: str) -> set[str] | None:
    """Names of the free exponents; None for a model that cannot be read."""
    from rinsc.syntax import free_exponents, parse

    if is_run(model):
        return set()
    try:
        text = _signature_of_file(model) if model.endswith(".toml") else model
        return set(free_exponents(parse(text)))
    except (OSError, ValueError, RecursionError, KeyError, TypeError, RinscError):
        return None


def _signature_of_file(path: str) -> str:
    from rinsc.storage.files import parse_toml, read_regular_text

    text = parse_toml(read_regular_text(Path(path)))["signature"]
    if not isinstance(text, str):
        raise TypeError
    return text


def any_spec_like(
    spec: ModelSpec | TowersSpec, model: str, exponents: Mapping[str, int], *, strict: bool = False
) -> ModelSpec | TowersSpec:
    """Another signature at the dimensions of ``spec``; a file or run folder stands for itself.

    A signature in which every letter has a size brings its own number of layers. ``strict`` refuses
    layers that do not divide evenly. Raises `UsageError` where one has towers and the other none.
    """
    from rinsc.spec import TowersSpec, model_spec, with_signature, with_towers
    from rinsc.syntax import bind, parse
    from rinsc.syntax.parser import has_towers, parse_towers
    from rinsc.syntax.towers import bind_towers

    other: ModelSpec | TowersSpec
    if model.endswith(".toml"):
        other = model_spec(model, bind=exponents, strict=strict)
    elif is_run(model):
        other = run_spec(find_run(model))
    elif has_towers(model) and isinstance(spec, TowersSpec):
        other = with_towers(spec, bind_towers(parse_towers(model), exponents), strict=strict)
    elif has_towers(model) or isinstance(spec, TowersSpec):
        raise _one_has_towers(spec)
    else:
        other = with_signature(spec, bind(parse(model), exponents), strict=strict)
    if isinstance(other, TowersSpec) != isinstance(spec, TowersSpec):
        raise _one_has_towers(spec)
    return other


def _one_has_towers(spec: ModelSpec | TowersSpec) -> UsageError:
    message = "one of the two models has several towers, and the other has not"
    hint = "give two models of towers, or two of one tower"
    return UsageError("several-towers", message, place=spec.text, hint=hint)
