"""A spec as a model of transformers, freshly initialised."""

from __future__ import annotations

import torch

from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.model import RinscForCausalLM
from rinsc.backends.torch.device import usable_device
from rinsc.errors import LoweringError
from rinsc.graph import BlockGraph, Rounds, build_graph, plain_rounds, require_graph
from rinsc.spec import ModelSpec
from rinsc.spec.model import spec_keys


def causal_lm(
    spec: ModelSpec | BlockGraph,
    *,
    rounds: Rounds = None,
    device: torch.device | str | None = None,
) -> RinscForCausalLM:
    """A model of a spec, freshly initialised: with equal seeds as `to_torch` makes it.

    Without ``device`` it is made where ``with torch.device(…)`` says.

    Raises `SpecError` for a spec that is no language model and `UsageError` for a device that
    PyTorch cannot use here.
    """
    graph = require_graph(spec)
    if graph != build_graph(graph.spec):
        message = "a graph that was unrolled or rewritten cannot be said in a config"
        hint = "give the spec, and the rounds when the model runs"
        raise LoweringError("rewritten-graph", message, hint=hint)
    config = RinscConfig(spec=spec_keys(graph.spec), rounds=plain_rounds(rounds))
    with usable_device(device):
        return RinscForCausalLM(config)
