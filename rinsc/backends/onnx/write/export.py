"""A PyTorch module of ours, or a graph and its weights, as an ONNX model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, Unpack

import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from rinsc.__about__ import __version__
from rinsc.backends.onnx.contract import Key
from rinsc.backends.onnx.form import FormSettings, OnnxForm, RoundsForm, check_exit, onnx_form
from rinsc.backends.onnx.precision import Precision, check_blocks
from rinsc.backends.onnx.write.builder import (
    REALS,
    HasStateDict,
    Moments,
    matching_weights,
    no_moments,
    weights_of,
)
from rinsc.backends.onnx.write.emit import emit_graph, merged
from rinsc.backends.onnx.write.file import OnnxModel
from rinsc.backends.onnx.write.fusion import can_fuse, fuse_skip_norms
from rinsc.errors import LoweringError
from rinsc.fingerprints import fingerprint
from rinsc.graph import (
    BlockGraph,
    TowersGraph,
    Visit,
    at_rounds,
    resolve_rounds,
    tower_rounds,
    unroll,
    verified,
)
from rinsc.graph.towers_graph import dial_of, verified_towers
from rinsc.layers import join_shapes
from rinsc.layers.cached import cached_programs
from rinsc.spec import spec_to_toml

IR_VERSION = 10
MAX_LAYERS_WRITTEN_OUT = 8192  # of these a runtime takes minutes to load already


class Module(HasStateDict, Protocol):
    """What `rinsc.backends.torch.to_torch` returns, as far as it matters here."""

    @property
    def graph(self) -> BlockGraph: ...

    def input_moments(self, inputs: npt.ArrayLike | None) -> Moments: ...


class TowersModule(HasStateDict, Protocol):
    """The same of several towers; each is an attribute, and a `Module`."""

    @property
    def graph(self) -> TowersGraph: ...


def to_onnx(
    model: Module | TowersModule,
    form: OnnxForm | RoundsForm = None,
    *,
    calibrate: npt.ArrayLike | bool = True,
    **settings: Unpack[FormSettings],
) -> OnnxModel:
    """The ONNX model of a module that `to_torch` made, with its weights as they are now.

    The form is an `OnnxForm`, or its fields: ``to_onnx(module, "dynamic", cache=True)``.

    ``rounds`` None, a number or a mapping by repeat writes that many rounds out; ``"dynamic"``
    makes every repeat a loop whose rounds are an int64 input ``rounds_<repeat>``. Inputs
    ``input_ids`` (batch, seq), output ``logits`` (batch, seq, vocab_size). With ``cache`` the model
    continues sequences: ``attention_mask`` (batch, past + seq) and ``past_key_values.N.key`` and
    ``.value`` (batch, kv_heads, past, head_dim) are inputs too, ``present.N.key`` and ``.value``
    outputs. Such a model uses ONNX Runtime's own operators, unless it is to be ``portable`` (or
    its head width is one that they do not take). With ``gated`` the rounds are the most that can
    be asked for by an input ``depth``. With an ``exit`` the rounds of a dial may end early, once
    for a whole batch; each ``rounds_used_<repeat>`` is an output then.

    A module of several towers gives one model, whose inputs and outputs bear the names of their
    towers: ``image_patches``, ``image_logits``, ``text_rounds_A``. Weights of a block that towers
    share are there once. It has no cache and no exit. Where pictures are compared with texts, the
    output ``logits`` (texts, images) is that of every pair.

    ``int4`` rounds weights so that products change least on a sample of inputs, which takes some
    passes over them at the rounds of the signature, so that all forms have the same weights.
    ``calibrate`` is that sample, token ids (windows, seq); True for text that the model samples
    itself (random ids where it has no cache), False to round each weight by itself.

    Raises `GraphError` for rounds that the model cannot run, `CheckpointError` for weights of
    another model, `SpecError` for a cache of a model that predicts no next token, `UsageError` for
    a precision that does not exist, and `LoweringError` for a layer kind without a cache, for what
    standard operators cannot do and for more than `MAX_LAYERS_WRITTEN_OUT` layers in the file.

    >>> import rinsc
    >>> model = rinsc.to_torch(rinsc.model_spec("(A^3)B", preset="tiny"))
    >>> [value.name for value in to_onnx(model, rounds="dynamic").ir.graph.inputs]
    ['input_ids', 'rounds_A']
    """
    graph = getattr(model, "graph", None)
    if isinstance(graph, TowersGraph):
        return _towers_to_onnx(graph, model, onnx_form(form, settings), calibrate)
    if not isinstance(graph, BlockGraph):
        message = f"this needs a module made by to_torch, not {type(model).__name__}"
        hint = "rinsc.to_onnx(rinsc.to_torch(spec))"
        raise LoweringError("not-a-module", message, hint=hint)
    plan = plan_onnx(graph, onnx_form(form, settings))
    moments: Moments = no_moments
    if plan.form.precision.is_calibrated and calibrate is not False:
        inputs = None if calibrate is True else calibrate
        moments = model.input_moments(inputs)  # type: ignore[union-attr]  # a graph of one tower
    return plan.write(model, moments)


def graph_to_onnx(
    graph: BlockGraph,
    weights: HasStateDict | Mapping[str, Any],
    form: OnnxForm | RoundsForm = None,
    *,
    moments: Moments = no_moments,
    **settings: Unpack[FormSettings],
) -> OnnxModel:
    """Like `to_onnx`, for a graph and weights by name (arrays, or a module that has them).

    ``moments`` are what `to_onnx` measures to calibrate, by the names of weights.
    """
    return plan_onnx(graph, onnx_form(form, settings)).write(weights, moments)


def _towers_to_onnx(
    graph: TowersGraph, model: Any, form: OnnxForm, calibrate: npt.ArrayLike | bool
) -> OnnxModel:
    """`to_onnx` of several towers."""
    plans = plan_towers(graph, form)
    state = model.state_dict()
    joint = {name: tensor for name, tensor in state.items() if "." not in name}
    graphs: dict[str, ir.Graph] = {}
    for name, plan in plans.items():
        moments: Moments = no_moments
        if form.precision.is_calibrated and calibrate is not False:
            if calibrate is not True:
                message = "inputs to calibrate with are those of one tower, and this has several"
                raise LoweringError("several-towers", message, hint="give calibrate=True or False")
            moments = getattr(model, name).input_moments(None)
        prefix = f"{name}."
        own = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        graphs[name] = plan.write(own, moments).ir.graph
    metadata = towers_metadata(graph, form, plans)
    shapes = join_shapes(graph.spec)
    return OnnxModel(onnx_model(merged(graphs, graph, matching_weights(shapes, joint)), metadata))


def towers_metadata(
    graph: TowersGraph, form: OnnxForm, plans: Mapping[str, OnnxPlan]
) -> dict[str, str]:
    """What the file of several towers says of itself."""
    counts = tower_rounds(graph, form.count)
    rounds = {dial_of(t, loop): n for t, own in counts.items() for loop, n in own.items()}
    return {
        **next(iter(plans.values())).metadata,
        Key.SIGNATURE: graph.spec.text,
        Key.SPEC: spec_to_toml(graph.spec),
        Key.PRECISION: form.precision.text,
        Key.ROUNDS: json.dumps(rounds),
        Key.FINGERPRINT: fingerprint(graph.spec),
    }


def plan_towers(graph: TowersGraph, form: OnnxForm) -> dict[str, OnnxPlan]:
    """The plan of each tower. Raises as `plan_onnx`, and `LoweringError` for a cache or an exit."""
    for setting, is_set in (("cache", form.cache), ("exit", form.exit is not None)):
        if is_set:
            message = f"a model of several towers has no {setting}: its towers are run whole"
            hint = f"leave '{setting}' out, or export one tower: to_onnx(module.NAME)"
            raise LoweringError("several-towers", message, hint=hint)
    check_blocks(form.precision, verified_towers(graph).blocks)
    counts = tower_rounds(graph, form.count)
    plans = {}
    for name, tower in graph.towers.items():
        kept_formats = {k: v for k, v in form.precision.keep.items() if k in tower.blocks}
        own = replace(form, precision=replace(form.precision, keep=kept_formats))
        if form.name != "dynamic":
            own = replace(own, rounds=counts[name])
        plans[name] = plan_onnx(tower, own)
    return plans


def onnx_model(graph: ir.Graph, metadata: Mapping[str, str]) -> ir.Model:
    return ir.Model(
        graph,
        ir_version=IR_VERSION,
        producer_name="rinsc",
        producer_version=__version__,
        metadata_props=dict(metadata),
    )


@dataclass(frozen=True)
class OnnxPlan:
    """A model that can be written in a form, before it has weights.

    ``graph`` is what is written, its rounds lowered; ``metadata`` are what the file will say.
    """

    source: BlockGraph
    graph: BlockGraph
    form: OnnxForm
    metadata: Mapping[str, str]

    def write(
        self, weights: HasStateDict | Mapping[str, Any], moments: Moments = no_moments
    ) -> OnnxModel:
        """The model; raises `CheckpointError` for weights of another one."""
        graph = emit_graph(self.graph, weights_of(self.source, weights), self.form, moments)
        model = onnx_model(graph, self.metadata)
        if self.form.fused:
            fuse_skip_norms(model.graph)
            RemoveUnusedNodesPass()(model)
        return OnnxModel(model)


def plan_onnx(graph: BlockGraph, form: OnnxForm) -> OnnxPlan:
    """Whatever can be wrong with a form of a graph is found here; nothing is allocated."""
    name, graph = form.name, verified(graph)
    if name == "dynamic":
        lowered = graph
    else:
        lowered = (at_rounds if form.gated else unroll)(graph, form.count)
    counts = resolve_rounds(graph, form.count)
    identity = fingerprint(graph.spec)
    _require_short(lowered, gated=form.gated)
    check_blocks(form.precision, graph.blocks)
    if form.portable:
        _require_standard(form.precision)
    if form.exit is not None:
        check_exit(graph, form.exit, cached=form.cache, dialled=name == "dynamic")
    if form.cache:
        cached_programs(graph.spec)
        if not can_fuse(graph.spec):
            form = replace(form, portable=True)
    metadata: dict[str, str] = {
        Key.VERSION: __version__,
        Key.SIGNATURE: graph.spec.text,
        Key.SPEC: spec_to_toml(graph.spec),
        Key.FORM: name,
        Key.PRECISION: form.precision.text,
        Key.EXIT: form.exit.text if form.exit else "",
        Key.OPERATORS: "fused" if form.fused else "standard",
        Key.ROUNDS: json.dumps(counts),
        Key.CACHE: json.dumps(form.cache),
        Key.FINGERPRINT: identity,
    }
    return OnnxPlan(graph, lowered, form, metadata)


def _require_short(graph: BlockGraph, *, gated: bool) -> None:
    """Raises `LoweringError` for a graph that writes out too many layers to be of use."""
    layers = _layers_written_out(graph, gated=gated)
    if layers > MAX_LAYERS_WRITTEN_OUT:
        message = f"{layers} layers would be written out; at most {MAX_LAYERS_WRITTEN_OUT} can be"
        hint = "ask for fewer rounds, for rounds='dynamic', or write a power in place of 'each'"
        raise LoweringError("too-many-layers", message, hint=hint)


def _layers_written_out(graph: BlockGraph, *, gated: bool) -> int:
    """Layers in the file: those of a repeat whose rounds are an input stand there once."""
    total = 0
    for node in graph.steps():
        if isinstance(node, Visit):
            total += node.each * graph.blocks[node.block].layers
        else:
            times = node.rounds if node.fixed or gated else 1
            total += _layers_written_out(node.body, gated=gated) * times
    return total


def _require_standard(precision: Precision) -> None:
    if precision.name not in REALS:
        message = f"ONNX has no operator for products in '{precision.name}'"
        hint = f"leave 'portable' out, or ask for one of: {', '.join(REALS)}"
        raise LoweringError("not-portable", message, hint=hint)
