"""Folders of two towers that transformers loads: as its own ``SiglipModel`` where that computes the
same, else with the code of the model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import SiglipConfig, SiglipModel

from rinsc.backends.hf.folder import CODE, TITLE, Imports, module_text, wrapped
from rinsc.backends.hf.towers import RinscSiglipConfig, RinscSiglipModel
from rinsc.backends.hf.towers_facts import towers_facts_source, towers_keys
from rinsc.backends.torch.module import CompiledTowers
from rinsc.backends.torch.towers_source import emit_towers
from rinsc.backends.torch.weight_files import stored_state, write_tensors
from rinsc.errors import SpecError
from rinsc.graph import (
    Rounds,
    TowersGraph,
    plain_rounds,
    unroll,
)
from rinsc.layers import model_input
from rinsc.sources import SIGLIP, towers_config_from_graph, towers_names_from_graph
from rinsc.sources.siglip_files import as_json, with_steps
from rinsc.storage.files import parse_json
from rinsc.storage.weights_digest import CHECKSUMS, MODEL_ENTRY, config_digest

MODULES = (
    *("rinsc.storage.weights_digest", "rinsc.backends.hf.starts"),
    "rinsc.backends.hf.towers",
)  # each after what it imports
WEIGHTS_FILE, CONFIG_FILE = "model.safetensors", "config.json"
AUTO_MAP = {
    "AutoConfig": f"{CODE}.{RinscSiglipConfig.__name__}",
    "AutoModel": f"{CODE}.{RinscSiglipModel.__name__}",
    "AutoModelForZeroShotImageClassification": f"{CODE}.{RinscSiglipModel.__name__}",
}


def siglip_tensors(
    module: CompiledTowers, rounds: Rounds
) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Config and tensors of a `SiglipModel` that computes what ``module`` does at these rounds.

    Layers that run several times are there as often. Raises `SpecError` where it cannot.
    """
    graph = with_steps(module.graph, unroll, rounds)
    config = towers_config_from_graph(SIGLIP, graph)
    state = stored_state(module)
    tensors = {
        theirs: torch.cat([state[name] for name in ours]) if len(ours) > 1 else state[ours[0]]
        for theirs, ours in towers_names_from_graph(SIGLIP, graph).items()
    }
    with torch.device("meta"):
        theirs = SiglipModel(SiglipConfig(**config)).state_dict()
    shapes = {name: tuple(tensor.shape) for name, tensor in theirs.items()}
    if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
        message = f"'{graph.spec.text}' has other matrices than a SiglipModel"
        hint = "heads of keys and values, or of another width, are not its own"
        raise SpecError("not-a-plain-stack", message, hint=hint)
    return config, tensors


def own_files(
    module: CompiledTowers, rounds: Rounds, token_ids: Mapping[str, int | None]
) -> dict[str, bytes]:
    """The config and the code of a model with all its rounds to choose from."""
    config = towers_config(module.graph, rounds, token_ids)
    values: dict[str, Any] = parse_json(config.to_json_string())
    dtype = next(module.parameters()).dtype
    values |= {
        "architectures": [RinscSiglipModel.__name__],
        "auto_map": AUTO_MAP,
        "dtype": str(dtype).removeprefix("torch."),
    }
    listed = {MODEL_ENTRY: config_digest(values)}
    return {
        CONFIG_FILE: as_json(values),
        f"{CODE}.py": towers_source(module.graph).encode("utf-8"),
        CHECKSUMS: as_json(listed),
    }


def towers_config(
    graph: TowersGraph, rounds: Rounds, token_ids: Mapping[str, int | None]
) -> RinscSiglipConfig:
    """The config of a model; raises `SpecError` for towers that are not compared."""
    pair = graph.spec.pairing
    if pair is None:
        message = f"'{graph.spec.text}' has no tower of pictures beside one of texts"
        hint = "give the towers the kinds siglip_image and siglip_text"
        raise SpecError("not-a-pair", message, hint=hint)
    image, text = graph.spec.towers[pair.image], graph.spec.towers[pair.text]
    _, channels, size, _ = model_input(image).shape
    facts: dict[str, Any] = {
        "spec": towers_keys(graph.spec),
        "rounds": plain_rounds(rounds),
        "image_tower": pair.image,
        "text_tower": pair.text,
        "image_size": size,
        "num_channels": channels,
        "context": text.context,
        "vocab_size": text.vocab_size,
        "projection_dim": pair.width,
        **token_ids,
    }
    return RinscSiglipConfig(**facts)


def own_tensors(module: CompiledTowers) -> dict[str, torch.Tensor]:
    """The weights under the names of `RinscSiglipModel`, those that towers share once."""
    tensors: dict[str, torch.Tensor] = {}
    stored: set[str] = set()
    for name, tensor in module.state_dict().items():
        if module.stored_name(name) not in stored:
            stored.add(module.stored_name(name))
            tensors[f"model.{name}"] = tensor
    return tensors


def towers_source(graph: TowersGraph) -> str:
    """The file that needs torch and transformers alone."""
    imports = Imports()
    emitted = imports.without(emit_towers(graph))
    facts = towers_facts_source(towers_keys(graph.spec))
    imports.add("typing", "Any", "Literal", "TypeAlias", "get_args")
    imports.add("collections.abc", "Mapping")
    own = [imports.without(module_text(module)) for module in MODULES]
    title = TITLE.format(
        signature=wrapped(graph.spec.text),
        what="model of pictures and texts",
        auto="AutoModel",
        calls="a forward pass",
    )
    body = "\n\n\n".join(text.strip("\n") for text in (emitted, facts, *own))
    return f"{title}\n{imports.text()}\n\n{body}\n"


def write_tensor_file(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """The weights, as ``from_pretrained`` reads them."""
    write_tensors(tensors, path, {"format": "pt"})
