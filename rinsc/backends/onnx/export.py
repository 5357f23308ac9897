"""A PyTorch module of ours, or a graph and its weights, as an ONNX model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal, Protocol, TypeAlias

import onnx_ir as ir

from rinsc.__about__ import __version__
from rinsc.backends.onnx.emit import emit_graph
from rinsc.backends.onnx.file import OnnxModel
from rinsc.backends.onnx.weights import HasStateDict, weights_of
from rinsc.errors import LoweringError, Problem
from rinsc.fingerprints import fingerprint
from rinsc.graph import BlockGraph, Rounds, Visit, resolve_rounds, unroll
from rinsc.spec import spec_to_toml

RoundsForm: TypeAlias = Rounds | Literal["dynamic"]

IR_VERSION = 10
MAX_LAYERS_WRITTEN_OUT = 8192  # of these a runtime takes minutes to load already


class Module(HasStateDict, Protocol):
    """What `rinsc.backends.torch.to_torch` returns, as far as it matters here."""

    @property
    def graph(self) -> BlockGraph: ...


def to_onnx(model: Module, rounds: RoundsForm = None, *, cache: bool = False) -> OnnxModel:
    """The ONNX model of a module that `to_torch` made, with its weights as they are now.

    ``rounds`` None, a number or a mapping by repeat writes that many rounds out; ``"dynamic"``
    makes every repeat a loop whose rounds are an int64 input ``rounds_<repeat>``. Inputs
    ``input_ids`` (batch, seq), output ``logits`` (batch, seq, vocab_size). With ``cache`` the model
    continues sequences: ``attention_mask`` (batch, past + seq) and ``past_key_values.N.key`` and
    ``.value`` (batch, kv_heads, past, head_dim) are inputs too, ``present.N.key`` and ``.value``
    outputs. Raises `GraphError` for rounds that the model cannot run, `CheckpointError` for weights
    of another model, `SpecError` for a cache of a model that predicts no next token, and
    `LoweringError` for a layer kind without a cache and for more than `MAX_LAYERS_WRITTEN_OUT`
    layers in the file.
    """
    graph = getattr(model, "graph", None)
    if not isinstance(graph, BlockGraph):
        message = f"this needs a module made by to_torch, not {type(model).__name__}"
        hint = "rinsc.to_onnx(rinsc.to_torch(spec))"
        raise LoweringError(Problem("not-a-module", message, hint=hint))
    return graph_to_onnx(graph, model, rounds, cache=cache)


def graph_to_onnx(
    graph: BlockGraph,
    weights: HasStateDict | Mapping[str, Any],
    rounds: RoundsForm = None,
    *,
    cache: bool = False,
) -> OnnxModel:
    """Like `to_onnx`, for a graph and weights by name (arrays, or a module that has them)."""
    if isinstance(rounds, str):
        _require_known(rounds)
        form, lowered, counts = "dynamic", graph, resolve_rounds(graph, None)
    else:
        form, lowered, counts = "fixed", unroll(graph, rounds), resolve_rounds(graph, rounds)
    identity = fingerprint(graph.spec)
    _require_short(lowered)
    model = ir.Model(
        emit_graph(lowered, weights_of(graph, weights), cached=cache),
        ir_version=IR_VERSION,
        producer_name="rinsc",
        producer_version=__version__,
        metadata_props={
            "rinsc.version": __version__,
            "rinsc.signature": graph.spec.text,
            "rinsc.spec": spec_to_toml(graph.spec),
            "rinsc.form": form,
            "rinsc.rounds": json.dumps(counts),
            "rinsc.cache": json.dumps(cache),
            "rinsc.fingerprint": identity,
        },
    )
    return OnnxModel(model)


def _require_short(graph: BlockGraph) -> None:
    """Raises `LoweringError` for a graph that writes out too many layers to be of use."""
    layers = _layers_written_out(graph)
    if layers > MAX_LAYERS_WRITTEN_OUT:
        message = f"{layers} layers would be written out; at most {MAX_LAYERS_WRITTEN_OUT} can be"
        hint = "ask for fewer rounds, for rounds='dynamic', or write a power in place of 'each'"
        raise LoweringError(Problem("too-many-layers", message, hint=hint))


def _layers_written_out(graph: BlockGraph) -> int:
    """Layers in the file: those of a repeat whose rounds are an input stand there once."""
    total = 0
    for step in graph.steps():
        if isinstance(step, Visit):
            total += step.each * graph.blocks[step.block].layers
        else:
            total += _layers_written_out(step.body) * (step.rounds if step.fixed else 1)
    return total


def _require_known(form: str) -> None:
    if form != "dynamic":
        hint = "give a number, numbers by repeat, or 'dynamic'"
        raise LoweringError(Problem("unknown-form", f"'{form}' says no rounds", hint=hint))
