"""What a layer kind is, and the three programs of a model that are traced from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from typing import TypeAlias

from rinsc.errors import GraphError, Problem
from rinsc.kinds import KINDS
from rinsc.ops import Shape
from rinsc.program import Builder, Program, Value, trace
from rinsc.spec import ModelSpec

Sides: TypeAlias = dict[str, Value]  # made once from the token ids and given to every layer

STATE: Shape = ("batch", "seq")


@dataclass(frozen=True)
class LayerKind:
    """Three short functions over the primitive operations.

    ``embed`` turns token ids (batch, seq) into the state (batch, seq, width) and the side values
    that every layer is given; ``layer`` maps state to state; ``head`` maps the last state to
    logits (batch, seq, vocab_size). Matrices start normal with deviation ``init_std``.
    """

    embed: Callable[[Builder, Value, ModelSpec], tuple[Value, Sides]]
    layer: Callable[[Builder, Value, Sides, ModelSpec], Value]
    head: Callable[[Builder, Value, ModelSpec], Value]
    init_std: float = 0.02


@dataclass(frozen=True)
class Programs:
    """A model's programs: everything that costs and backends need to know of its layers."""

    embed: Program
    layer: Mapping[str, Program]  # by kind
    head: Program

    @property
    def every(self) -> tuple[Program, ...]:
        return (self.embed, *self.layer.values(), self.head)


def layer_kind(name: str) -> LayerKind:
    """The kind that `rinsc.kinds` lists under ``name``."""
    kind: LayerKind = import_module(KINDS[name]).KIND
    return kind


@lru_cache(maxsize=64)
def trace_programs(spec: ModelSpec) -> Programs:
    """The programs of a spec, traced from its layer kind.

    Raises `GraphError` for a kind whose operations do not fit each other.
    """
    kind = layer_kind(spec.kind)

    def embed(b: Builder, given: dict[str, Value]) -> dict[str, Value]:
        state, sides = kind.embed(b, given["input_ids"], spec)
        return {"x": state, **sides}

    embed_program = trace({"input_ids": STATE}, embed)
    shapes = {name: value.shape for name, value in embed_program.outputs.items()}

    def layer(b: Builder, given: dict[str, Value]) -> dict[str, Value]:
        sides = {name: value for name, value in given.items() if name != "x"}
        return {"x": kind.layer(b, given["x"], sides, spec)}

    def head(b: Builder, given: dict[str, Value]) -> dict[str, Value]:
        return {"logits": kind.head(b, given["x"], spec)}

    layer_program = trace(shapes, layer)
    if layer_program.outputs["x"].shape != shapes["x"]:
        found = layer_program.outputs["x"].shape
        message = f"a layer of kind '{spec.kind}' turns {shapes['x']} into {found}"
        hint = "a layer must give the state back in the shape it came"
        raise GraphError(Problem("layer-changes-shape", message, hint=hint))
    return Programs(
        embed=embed_program,
        layer={spec.kind: layer_program},
        head=trace({"x": shapes["x"]}, head),
    )
