"""How weights start, and how the weights of a finished run are written."""

from __future__ import annotations

import json
import math
from typing import Any

import torch
from torch import nn

from rinsc.backends.hf import RinscForCausalLM
from rinsc.backends.torch import to_torch
from rinsc.backends.torch.sharded_checkpoint import full_state_dict
from rinsc.backends.torch.weights import save_weights
from rinsc.graph import BlockGraph
from rinsc.layers import weights
from rinsc.storage.files import parse_json, read_regular_text, write_atomically
from rinsc.text.tokenizer_files import (
    TOKENIZER_CONFIG_FILE,
    read_declared,
    special_tokens,
    tokenizer_files,
)
from rinsc.training.devices import Devices
from rinsc.training.run_folder import RunFolder

PREFIX = "model."  # of the emitted module in a model of transformers


def save_trained(model: Any, folder: RunFolder, devices: Devices) -> None:
    """Write weights, config and what a tokenizer is loaded with; the old files survive a failure.

    Every process calls it where the model is sharded; the first one writes. Raises OutputError.
    """
    weights = full_state_dict(model) if devices.shard else model.state_dict()

    def write() -> None:
        plain = to_torch(model.model.spec)
        own = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
        plain.load_state_dict(own)
        save_weights(plain, folder.weights)
        if not hasattr(model, "config"):  # no model of transformers
            return
        config = parse_json(model.config.to_json_string())
        # What saving a checkpoint notes in the config, whether this process saved one or not.
        config |= {
            "architectures": [RinscForCausalLM.__name__],
            "dtype": str(next(iter(own.values())).dtype).removeprefix("torch."),
        }
        if folder.tokenizer.is_file():  # a run from Python may have none
            declared = read_declared(folder.path)
            text = read_regular_text(folder.tokenizer)
            config |= special_tokens(text, declared).config_ids
            files = tokenizer_files(text, declared, plain.spec.context)
            write_atomically(folder.tokenizer_config, files[TOKENIZER_CONFIG_FILE])
        write_atomically(folder.hf_config, json.dumps(config, indent=2, sort_keys=True) + "\n")

    devices.on_first(write)


@torch.no_grad()
def scale_residuals(module: nn.Module, graph: BlockGraph) -> None:
    """Give the weights that write to the state the spread that stored layers alone would ask for.

    An emitted module divides their deviation by the root of the writes that a pass executes; a
    model without repeats has as many writes as layers are stored.
    """
    executed = sum(
        visits * graph.blocks[name].layers for name, visits in graph.visit_counts().items()
    )
    stored = sum(block.layers for block in graph.blocks.values())
    for name, param in weights(graph):
        if param.init == "residual":
            module.get_parameter(name).mul_(math.sqrt(executed / stored))
