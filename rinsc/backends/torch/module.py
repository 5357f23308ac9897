"""A spec as a PyTorch module: the emitted source is what runs."""

from __future__ import annotations

import itertools
import linecache
import sys
import weakref
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar, TypeVar, cast

import torch
from torch import nn

from rinsc.backends.torch.emit import emit_source
from rinsc.backends.torch.memory import require_memory
from rinsc.backends.torch.steps import takes_noise_seed
from rinsc.graph import BlockGraph, require_graph
from rinsc.spec import ModelSpec

_numbers = itertools.count()
Module = TypeVar("Module", bound=nn.Module)


class CompiledModule(nn.Module):
    """What `to_torch` returns: the emitted `Model`, and what it was made from."""

    source: ClassVar[str]
    spec: ClassVar[ModelSpec]
    graph: ClassVar[BlockGraph]
    takes_noise_seed: ClassVar[bool]
    draws: Any = None  # of a model that draws in training


def to_torch(
    spec: ModelSpec | BlockGraph, *, device: torch.device | str | None = None
) -> CompiledModule:
    """The module of a spec, or of a graph rolled or unrolled, freshly initialised.

    ``module(input_ids, rounds=None)`` maps token ids (batch, seq) to logits (batch, seq,
    vocab_size); where a repeat starts from noise, ``noise_seed`` chooses it. In training mode,
    rounds and seed that you leave out are drawn; ``module.draws`` says for which step.
    ``module.source`` is the Python that runs, ``module.spec`` and ``module.graph``
    what it came from. The default ``device`` is that of ``with torch.device(…)`` or of
    ``torch.set_default_device``, and weights have torch's default dtype. On the device ``meta``
    nothing is allocated. Raises `LoweringError` for a model that memory cannot hold.
    """
    graph = require_graph(spec)
    device = torch.get_default_device() if device is None else torch.device(device)
    if device.type == "cpu":
        require_memory(graph)
    source = emit_source(graph)
    origin = {
        "source": source,
        "spec": graph.spec,
        "graph": graph,
        "takes_noise_seed": takes_noise_seed(graph),
    }
    model_class = emitted_class("Model", CompiledModule, origin)
    with device:
        return model_class()


def emitted_class(name: str, base: type[Module], origin: Mapping[str, Any]) -> type[Module]:
    """The ``Model`` of the emitted ``origin["source"]`` as a class that also has what ``origin``
    says; its source is a module as long as the class lives."""
    namespace = load_source(origin["source"])
    made = type(name, (namespace["Model"], base), dict(origin))
    weakref.finalize(made, _forget, namespace["__name__"]).atexit = False
    return cast(type[Module], made)


def load_source(source: str) -> dict[str, Any]:
    """Execute emitted source as a module, which torch.compile finds by its name; tracebacks and the
    debugger show its lines."""
    module = ModuleType(f"rinsc_model_{next(_numbers)}")
    filename = _filename(module.__name__)
    linecache.cache[filename] = (len(source), None, source.splitlines(keepends=True), filename)
    sys.modules[module.__name__] = module
    exec(compile(source, filename, "exec"), vars(module))
    return vars(module)


def _filename(module: str) -> str:
    return f"<{module}>"


def _forget(module: str) -> None:
    sys.modules.pop(module, None)
    linecache.cache.pop(_filename(module), None)
