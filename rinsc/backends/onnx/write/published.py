"""Two towers of SigLIP as the three ONNX files that others load, with the names that they expect.

    vision_model   pixel_values                    last_hidden_state, pooler_output
    text_model     input_ids                       last_hidden_state, pooler_output
    model          input_ids, pixel_values         logits_per_image, logits_per_text,
                                                   text_embeds, image_embeds

Readers give a model the inputs that they know and no others. Rounds that are an input, such as
``image_rounds_A``, therefore have a default: an initializer of the same name, which is what runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import onnx_ir as ir

from rinsc.backends.onnx.contract import IDS, LOGITS, Key, dial_name, tower_port
from rinsc.backends.onnx.form import OnnxForm
from rinsc.backends.onnx.write.builder import (
    FLOAT,
    Moments,
    matching_weights,
    no_moments,
)
from rinsc.backends.onnx.write.emit import merged
from rinsc.backends.onnx.write.export import OnnxPlan, onnx_model, plan_towers, towers_metadata
from rinsc.backends.onnx.write.file import SMALL_BYTES, OnnxModel
from rinsc.errors import LoweringError
from rinsc.graph import TowersGraph, tower_rounds
from rinsc.graph.towers_graph import by_dial
from rinsc.layers import join_shapes

VISION, TEXT, BOTH = "vision_model", "text_model", "model"
PIXELS = "pixel_values"
STATE, POOLED = "last_hidden_state", "pooler_output"
NORMED = "head/final_norm"  # the value that is the last state, as the writer names it
SEQUENCE = "seq"


def published_models(module: Any, form: OnnxForm) -> dict[str, OnnxModel]:
    """The models by the names of their files; each has each of its weights once.

    ``module`` is one of two towers, pictures and texts; raises `LoweringError` for another, and
    what `plan_towers` does.
    """
    graph: TowersGraph = module.graph
    pair = graph.spec.pairing
    if pair is None:
        message = f"'{graph.spec.text}' has no tower of pictures beside one of texts"
        hint = "write all towers into one file"
        raise LoweringError("not-a-pair", message, hint=hint)
    writer = _Writer(module, form)
    return {
        VISION: writer.alone(pair.image),
        TEXT: writer.alone(pair.text),
        BOTH: writer.both(pair.image, pair.text),
    }


class _Writer:
    """A module, and what is written of each of its towers."""

    def __init__(self, module: Any, form: OnnxForm) -> None:
        self.module, self.form = module, form
        self.graph: TowersGraph = module.graph
        self.plans: dict[str, OnnxPlan] = plan_towers(self.graph, form)
        self.rounds = tower_rounds(self.graph, form.count)
        self.state: Mapping[str, Any] = module.state_dict()
        self._moments: dict[str, Moments] = {}
        # What several files hold is one tensor: it is then made once.
        self._stored: dict[str, dict[str, ir.TensorProtocol]] = {}

    def alone(self, tower: str) -> OnnxModel:
        """One tower: its last state, and its embedding, which is not normalised."""
        graph = self._graph(tower)
        (embedding,) = graph.outputs
        state = _last_state(graph)
        if state.dtype != FLOAT:
            cast = ir.node("Cast", [state], {"to": FLOAT.value}, num_outputs=1, name=STATE)
            graph.append(cast)
            shape, (state,) = state.shape, cast.outputs
            state.shape, state.type = shape, ir.TensorType(FLOAT)
        embedding.name, state.name = POOLED, STATE
        graph.outputs[:] = [state, embedding]
        self._set_lengths(graph, tower, SEQUENCE)
        self._set_defaults(graph, tower, lambda name: name)
        return self._model(graph, [tower])

    def both(self, image: str, text: str) -> OnnxModel:
        """Both towers and the logits of every pair, with the normalised embeddings."""
        graphs = {name: self._graph(name) for name in self.graph.towers}
        joint = {name: tensor for name, tensor in self.state.items() if "." not in name}
        weights = matching_weights(join_shapes(self.graph.spec), joint)
        graph = merged(graphs, self.graph, weights)
        inputs = {str(value.name): value for value in graph.inputs}
        outputs = {str(value.name): value for value in graph.outputs}
        embeds = {
            "image_embeds": _normalised(outputs[tower_port(image, "embedding")]),
            "text_embeds": _normalised(outputs[tower_port(text, "embedding")]),
        }
        logits = outputs[LOGITS]
        turned = ir.node("Transpose", [logits], {"perm": [1, 0]}, num_outputs=1, name="turned")
        graph.append(turned)
        (per_image,) = turned.outputs
        texts, images = logits.shape or (None, None)
        per_image.shape, per_image.type = ir.Shape([images, texts]), logits.type
        per_image.name, logits.name = "logits_per_image", "logits_per_text"
        for name, value in embeds.items():
            value.name = name
        graph.outputs[:] = [per_image, logits, embeds["text_embeds"], embeds["image_embeds"]]
        pixels = inputs.pop(tower_port(image, PIXELS))
        ids = inputs.pop(tower_port(text, IDS))
        pixels.name, ids.name = PIXELS, IDS
        graph.inputs[:] = [ids, pixels, *inputs.values()]
        for tower in (image, text):
            self._set_lengths(graph, tower, f"{tower}_{SEQUENCE}")
            self._set_defaults(graph, tower, partial(tower_port, tower))
        return self._model(graph, [image, text])

    def _graph(self, tower: str) -> ir.Graph:
        """The graph of one tower, made anew."""
        prefix = f"{tower}."
        own = {k.removeprefix(prefix): v for k, v in self.state.items() if k.startswith(prefix)}
        graph = self.plans[tower].write(own, self._moments_of(tower)).ir.graph
        stored = self._stored.setdefault(tower, {})
        for name, value in graph.initializers.items():
            if value.const_value is not None and value.const_value.nbytes >= SMALL_BYTES:
                value.const_value = stored.setdefault(name, value.const_value)
        return graph

    def _moments_of(self, tower: str) -> Moments:
        if not self.form.precision.is_calibrated:
            return no_moments
        if tower not in self._moments:
            self._moments[tower] = getattr(self.module, tower).input_moments(None)
        return self._moments[tower]

    def _set_lengths(self, graph: ir.Graph, tower: str, name: str) -> None:
        """Let sequences have their one length, where values have it as a name."""
        length = self.graph.spec.towers[tower].context
        for value in _values(graph):
            if value.shape is not None and value.const_value is None:
                value.shape = ir.Shape([length if str(d) == name else d for d in value.shape])

    def _set_defaults(self, graph: ir.Graph, tower: str, port: Callable[[str], str]) -> None:
        """Give inputs that set rounds a default; ``port`` says what they are called so far."""
        own = self.graph.towers[tower]
        inputs = {str(value.name): value for value in graph.inputs}
        for loop in own.dials():
            name = dial_name(own, loop.name, gated=self.form.gated)
            if port(name) in inputs:
                value = inputs[port(name)]
                value.name = tower_port(tower, name)
                count = np.array(self.rounds[tower][loop.name], np.int64)
                value.const_value = ir.Tensor(count, name=value.name)
                graph.register_initializer(value)

    def _model(self, graph: ir.Graph, towers: Sequence[str]) -> OnnxModel:
        metadata = towers_metadata(self.graph, self.form, self.plans)
        rounds = by_dial({tower: self.rounds[tower] for tower in towers})
        return OnnxModel(onnx_model(graph, {**metadata, Key.ROUNDS: json.dumps(rounds)}))


def _last_state(graph: ir.Graph) -> ir.Value:
    (value,) = (value for node in graph for value in node.outputs if value.name == NORMED)
    return value


def _normalised(embedding: ir.Value) -> ir.Value:
    """The embedding over its length, as the comparison takes it."""
    (value,) = (n.outputs[0] for n in embedding.consumers() if n.op_type == "Div")
    return value


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    for node in graph:
        yield from node.outputs
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                yield from _values(attribute.as_graph())
