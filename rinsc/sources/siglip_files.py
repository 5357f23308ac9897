"""What lies beside the weights of a SigLIP, for transformers and transformers.js."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rinsc.graph import BlockGraph, Rounds, TowersGraph, at_rounds, tower_rounds
from rinsc.graph.towers_graph import joined
from rinsc.sources.siglip import SIGLIP
from rinsc.sources.towers import towers_config_from_graph


def siglip_config(graph: TowersGraph, rounds: Rounds) -> dict[str, Any]:
    """The config of a `SiglipModel` with these inputs and as many layers as run, for tools that
    read it and not the model."""
    return towers_config_from_graph(SIGLIP, with_steps(graph, at_rounds, rounds))


def with_steps(
    graph: TowersGraph, rewrite: Callable[[BlockGraph, Rounds], BlockGraph], rounds: Rounds
) -> TowersGraph:
    """Every tower, rewritten for its rounds."""
    counts = tower_rounds(graph, rounds)
    towers = {name: rewrite(own, counts[name]) for name, own in graph.towers.items()}
    return joined(graph.spec, towers)


def siglip_config_json(config: Mapping[str, Any], dtype: str, facts: object) -> bytes:
    """The ``config.json`` of such a model; ``facts`` say what of ours it is."""
    values = {
        "architectures": ["SiglipModel"],
        **config,
        "initializer_factor": 1.0,
        "dtype": dtype,
        "rinsc": facts,
    }
    return as_json(values)


def processor_json(size: int, channels: int) -> bytes:
    """What makes the inputs of the tower of pictures, for ``AutoProcessor`` and transformers.js:
    squashed to a square, bicubic, from -1 to 1."""
    half = [0.5] * channels
    return as_json(
        {
            "do_convert_rgb": channels == 3,
            "do_normalize": True,
            "do_rescale": True,
            "do_resize": True,
            "image_mean": half,
            "image_processor_type": "SiglipImageProcessor",
            "image_std": half,
            "processor_class": "SiglipProcessor",
            "resample": 3,
            "rescale_factor": 1 / 255,
            "size": {"height": size, "width": size},
        }
    )


def as_json(values: object) -> bytes:
    """The text of a file, its keys in order."""
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode("utf-8")
