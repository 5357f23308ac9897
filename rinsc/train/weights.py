"""The weights that a run ends with, as our own tools and those of Hugging Face read them."""

from __future__ import annotations

import json

from rinsc.backends.hf import RinscForCausalLM
from rinsc.backends.torch import to_torch
from rinsc.backends.torch.sharded_checkpoint import full_state_dict
from rinsc.backends.torch.weights import save_weights
from rinsc.files import parse_json, read_regular_text, write_atomically
from rinsc.tokenizer_files import (
    TOKENIZER_CONFIG_FILE,
    read_declared,
    special_tokens,
    tokenizer_files,
)
from rinsc.train.devices import Devices
from rinsc.train.run_folder import RunFolder

PREFIX = "model."  # of the emitted module in a model of transformers


def save_trained(model: RinscForCausalLM, folder: RunFolder, devices: Devices) -> None:
    """Write weights, config and what a tokenizer is loaded with; the old files survive a failure.

    Every process calls it where the model is sharded; the first one writes. Raises OutputError.
    """
    weights = full_state_dict(model) if devices.shard else model.state_dict()

    def write() -> None:
        plain = to_torch(model.model.spec)
        own = {name.removeprefix(PREFIX): tensor for name, tensor in weights.items()}
        plain.load_state_dict(own)
        save_weights(plain, folder.weights)
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
