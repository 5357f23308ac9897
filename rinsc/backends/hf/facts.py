"""What the model of transformers knows of the model that it holds: its only ties to rinsc.

A folder that runs without rinsc has constants in the place of this file (`facts_source`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import torch

from rinsc.backends.torch.decoding import HostedModule, hosted_class
from rinsc.backends.torch.module import CompiledModule, recomputing_module
from rinsc.backends.torch.steps import takes_noise_seed
from rinsc.backends.torch.tensor_plan import Side, tensor_plan
from rinsc.cost.counts import checked_sequence, run_counts
from rinsc.cost.flops import PYTORCH, flops_of_a_step
from rinsc.errors import CheckpointError, LoweringError, SpecError
from rinsc.graph import BlockGraph, Rounds, build_graph, resolve_rounds
from rinsc.layers import block_weights, layer_kind, model_input, trace_programs
from rinsc.layers.cached import hosted_programs, looks_back_by_attention_alone
from rinsc.layers.weight_names import LAYERS, TIED
from rinsc.spec import ModelSpec, spec_from_values
from rinsc.spec.model import spec_keys

STYLES: Mapping[Side, str] = {"column": "colwise", "row": "rowwise"}


def tp_plan(graph: BlockGraph) -> dict[str, str]:
    """Tensor parallelism, as `tensor_plan` reads it off the layers; nothing where it cannot be."""
    plan: dict[str, str] = {}
    programs = trace_programs(graph.spec)
    for name, block in graph.blocks.items():
        weights = block_weights(graph, name)
        try:
            sides = [tensor_plan(layer, devices=1) for layer in programs.layers[name]]
        except LoweringError:
            return {}
        alike = all(own == sides[0] for own in sides)
        for index in range(1 if alike else block.layers):
            stack = weights.layer(index).rstrip(".")
            stack = f"{stack.rpartition('.')[0]}.*" if alike else stack
            for node in programs.layers[name][index].nodes:
                if node.name in sides[index]:
                    owner = f"{name}.{TIED}" if weights.is_tied(node) else stack
                    plan[f"{owner}.{node.name}"] = STYLES[sides[index][node.name]]
    return plan


def fsdp_plan(graph: BlockGraph) -> dict[str, str]:
    """FSDP2: layers are gathered one by one, for each of their visits anew.

    The rest stays gathered with the root: the head may read the embedding's table.
    """
    plan: dict[str, str] = {}
    for name in graph.blocks:
        framed = block_weights(graph, name).framed
        plan[f"{name}.{LAYERS}.*" if framed else f"{name}.*"] = "free_full_weight"
    return plan


# Of a folder that brings its own code: what our class saves has none.
FOREIGN_KEYS: tuple[str, ...] = ("auto_map",)

Items: TypeAlias = tuple[tuple[str, Any], ...]  # of a spec's keys and values
Function = TypeVar("Function", bound=Callable[..., object])
Counts: TypeAlias = tuple[tuple[str, int], ...]  # rounds by repeat


class ModelFacts:
    """Of the model whose spec a config holds, read off its graph."""

    spec: dict[str, Any] | None

    @property
    def model_spec(self) -> ModelSpec:
        """The spec; raises `SpecError` where the config has none, or one that is wrong."""
        return self.graph.spec

    @property
    def graph(self) -> BlockGraph:
        """The block graph of the spec."""
        if self.spec is None:
            message = "the config says nothing of its model"
            hint = "make it of a spec: RinscConfig(spec={'signature': '(A^3)B', 'preset': 'tiny'})"
            raise SpecError("no-spec", message, place="spec", hint=hint)
        return _graph(self._items)

    @property
    def _items(self) -> Items:
        return _frozen(self.spec or {})

    @staticmethod
    def checked_spec(spec: dict[str, Any]) -> dict[str, Any]:
        """Every key of the spec; raises `SpecError` for one that is wrong."""
        return spec_keys(spec_from_values(spec, "spec"))

    def dimensions(self) -> dict[str, Any]:
        """The spec in the words that tools know."""
        spec = self.model_spec
        return {
            "vocab_size": spec.vocab_size,
            "hidden_size": spec.width,
            "intermediate_size": spec.mlp_width,
            "num_attention_heads": spec.heads,
            "num_key_value_heads": spec.kv_heads,
            "head_dim": spec.head_size,
            "max_position_embeddings": spec.context,
            "tie_word_embeddings": spec.tied_embedding,
            "initializer_range": layer_kind(spec.kind).init_std,
        }

    @property
    def takes_noise_seed(self) -> bool:
        """Whether some repeat starts from noise."""
        return _takes_noise_seed(self._items)

    @property
    def keeps_cache(self) -> bool:
        """False where a layer looks back by more than attention."""
        return _keeps_cache(self._items)

    @property
    def shares_slots(self) -> bool:
        """Whether rounds share cache slots, so that a cached pass runs one token at a time."""
        return _shares_slots(self._items)

    def new_module(self) -> HostedModule:
        """The emitted module, freshly initialised."""
        return hosted_class(self.graph)()

    def new_plain_module(self) -> CompiledModule:
        """The emitted module of a model that is no language model, freshly initialised."""
        return recomputing_module(self.model_spec)

    @property
    def patch_width(self) -> int:
        """Numbers in a patch, of a model that takes patches."""
        return int(model_input(self.model_spec).shape[-1])

    def adopt(self, module: HostedModule) -> None:
        """Let the module, whose vocabulary was resized, be one of the graph that it has now."""
        if isinstance(module, HostedModule) and module.graph != self.graph:
            module.__class__ = hosted_class(self.graph)

    def resolved(self, rounds: Rounds) -> dict[str, int]:
        """Rounds of every repeat; raises `GraphError` for those that the model cannot run."""
        return dict(_resolved(self._items, rounds))

    def executed_layers(self, counts: dict[str, int]) -> int:
        """Layers that a pass at these rounds runs."""
        return self.graph.executed_layers(counts)

    def cache_slots(self, counts: dict[str, int]) -> int:
        """Pairs of keys and values that a pass at these rounds keeps: one for each layer of each
        visit, except where the rounds of a repeat share theirs."""
        return _cache_slots(self._items, tuple(counts.items()))

    def step_flops(self, batch: int, seq: int, counts: dict[str, int]) -> int:
        """FLOPs of a training step over (batch, seq) tokens, by PyTorch's convention."""
        return _step_flops(self.graph, batch, seq, tuple(counts.items()))

    def require_sequence(self, seq: int) -> None:
        """Raises `SpecError` for a sequence beyond the context."""
        if self.spec is not None and seq > self.spec["context"]:
            checked_sequence(self.model_spec, int(seq))

    def tp_plan(self) -> dict[str, str]:
        """How matrices are cut over devices."""
        return tp_plan(self.graph)

    def fsdp_plan(self) -> dict[str, str]:
        """What is gathered by itself where a model is sharded."""
        return fsdp_plan(self.graph)


def cannot_run(code: str, message: str, hint: str, place: str | None = None) -> LoweringError:
    """The error for what a model cannot do."""
    return LoweringError(code, message, place=place, hint=hint)


def damaged_weights(path: Path) -> CheckpointError:
    """The error for a file of weights that is not as it was written."""
    message = "the weights are damaged: the file is not as it was written"
    hint = "copy or export it again; a digest inside the file tells"
    return CheckpointError("damaged-weights", message, place=str(path), hint=hint)


def changed_config(path: Path) -> CheckpointError:
    """The error for a config that is not as it was written."""
    message = "the spec or the rounds in this config.json are not as they were written"
    hint = "restore the file; if you changed it yourself, remove checksums.json"
    return CheckpointError("damaged-config", message, place=str(path), hint=hint)


def wrong_value(code: str, message: str, hint: str, place: str | None = None) -> SpecError:
    """The error for a value that nothing has."""
    return SpecError(code, message, place=place, hint=hint)


def _frozen(values: dict[str, Any]) -> Items:
    """The keys and values, tables among them too, as what can be a key itself."""
    return tuple(
        (key, _frozen(value) if isinstance(value, dict) else value) for key, value in values.items()
    )


def _thawed(items: Items) -> dict[str, Any]:
    return {key: _thawed(v) if isinstance(v, tuple) else v for key, v in items}


@lru_cache(maxsize=32)
def _graph(items: Items) -> BlockGraph:
    return build_graph(spec_from_values(_thawed(items), "spec"))


def _constant(function: Function) -> Function:
    """A function of constants that every pass asks: torch.compile takes its answer as given."""
    constant: Function = torch.compiler.assume_constant_result(function)  # type: ignore[no-untyped-call]
    return constant


@_constant
def _resolved(items: Items, rounds: Rounds) -> Counts:
    return tuple(resolve_rounds(_graph(items), rounds).items())


@_constant
def _takes_noise_seed(items: Items) -> bool:
    return _has_noise(_graph(items))


@_constant
def _keeps_cache(items: Items) -> bool:
    return _attends_alone(_graph(items))


@_constant
def _shares_slots(items: Items) -> bool:
    return _graph(items).shares_slots


@_constant
def _cache_slots(items: Items, counts: Counts) -> int:
    return _slots(_graph(items), counts)


_has_noise = lru_cache(maxsize=32)(takes_noise_seed)


@lru_cache(maxsize=32)
def _attends_alone(graph: BlockGraph) -> bool:
    return looks_back_by_attention_alone(hosted_programs(graph.spec))


def slots_of_visit(graph: BlockGraph, name: str) -> int:
    """Pairs of keys and values that one visit of a block makes."""
    layers = hosted_programs(graph.spec).layers[name]
    return sum(node.op.needs == "keys" for layer in layers for node in layer.nodes)


@lru_cache(maxsize=256)
def _slots(graph: BlockGraph, counts: Counts) -> int:
    runs = run_counts(graph, dict(counts)).blocks
    return sum(int(runs[name].cache_slots) * slots_of_visit(graph, name) for name in graph.blocks)


@lru_cache(maxsize=256)
def _step_flops(graph: BlockGraph, batch: int, seq: int, counts: Counts) -> int:
    return round(flops_of_a_step(graph, run_counts(graph, dict(counts)), batch, seq, PYTORCH))
