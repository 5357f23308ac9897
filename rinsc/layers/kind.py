"""What a layer kind is, and the programs of a model that are traced from its kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from typing import Literal, TypeAlias

from rinsc.errors import GraphError, Problem, RinscError
from rinsc.kinds import KindPlace, kind_place
from rinsc.ops import Attention, Shape
from rinsc.program import Builder, Program, Value, trace
from rinsc.spec import ModelSpec

Sides: TypeAlias = dict[str, Value]  # made once from the input and given to every layer
Dtype: TypeAlias = Literal["int64", "float32"]
BlockFunction: TypeAlias = Callable[[Builder, Value, Sides, ModelSpec], Value]
SideFunction: TypeAlias = Callable[[Builder, Value, Value, ModelSpec], Sides]


def no_sides(b: Builder, given: Value, x: Value, spec: ModelSpec) -> Sides:
    """For layers that need nothing but the state."""
    return {}


@dataclass(frozen=True)
class LayerKind:
    """Short functions over the primitive operations.

    ``embed`` turns the input, token ids (batch, seq) or patches (batch, seq, patch_width), into
    the state (batch, seq, width); ``sides`` makes from input and state the values that every layer
    is given; ``layer`` maps state to state; ``head`` maps the last state to logits. ``enter`` and
    ``leave``, where a kind has them, run at the start and at the end of each visit of a block and
    own their weights once a block. A kind that ``sees_embedding`` has the first state of all as the
    side value ``embedded``. A kind that is not ``causal`` lets a position see later ones.
    Matrices start normal with deviation ``init_std``.
    """

    embed: Callable[[Builder, Value, ModelSpec], Value]
    layer: BlockFunction
    head: Callable[[Builder, Value, ModelSpec], Value]
    sides: SideFunction = no_sides
    enter: BlockFunction | None = None
    leave: BlockFunction | None = None
    takes: Literal["tokens", "patches"] = "tokens"
    sees_embedding: bool = False
    causal: bool = True
    init_std: float = 0.02


@dataclass(frozen=True)
class ModelInput:
    """The one input of a model beside its dials."""

    name: str
    shape: Shape
    dtype: Dtype


@dataclass(frozen=True)
class Programs:
    """A model's programs: everything that costs and backends need to know of its layers.

    ``layer``, ``enter`` and ``leave`` are by kind, for the kinds that some block has.
    """

    input: ModelInput
    embed: Program
    layer: Mapping[str, Program]
    enter: Mapping[str, Program]
    leave: Mapping[str, Program]
    head: Program

    @property
    def every(self) -> tuple[Program, ...]:
        blocks = (*self.enter.values(), *self.layer.values(), *self.leave.values())
        return (self.embed, *blocks, self.head)


def layer_kind(name: str) -> LayerKind:
    """The kind that `rinsc.kinds` or another package lists under ``name``.

    Raises `GraphError` for a kind of another package that cannot be used.
    """
    place = kind_place(name)
    if place.package == "rinsc":
        own: LayerKind = getattr(import_module(place.module), place.attribute)
        return own
    if not name.isidentifier():
        raise _broken_kind(name, place, "its name must be an identifier")
    try:
        kind = getattr(import_module(place.module), place.attribute)
    except Exception as error:  # whatever the code of a stranger raises
        raise _broken_kind(name, place, f"{type(error).__name__}: {error}") from None
    if not isinstance(kind, LayerKind):
        raise _broken_kind(name, place, f"'{place.attribute}' is not a LayerKind")
    return kind


def _broken_kind(name: str, place: KindPlace, reason: str) -> GraphError:
    message = f"the layer kind '{name}' cannot be loaded from '{place.module}': {reason:.200}"
    hint = f"mend or uninstall the package '{place.package}', which registers it"
    return GraphError(Problem("broken-kind", message, hint=hint))


def model_input(spec: ModelSpec) -> ModelInput:
    """What a model of this spec is given."""
    if layer_kind(spec.kind).takes == "patches":
        return ModelInput("patches", ("batch", "seq", spec.patch_width), "float32")
    return ModelInput("input_ids", ("batch", "seq"), "int64")


@lru_cache(maxsize=64)
def trace_programs(spec: ModelSpec) -> Programs:
    """The programs of a spec, traced from its layer kind and from those of its blocks.

    Raises `GraphError` for a kind whose operations do not fit each other.
    """
    names = list(dict.fromkeys(spec.block_kinds.values()))
    kinds = {name: layer_kind(name) for name in names}
    embed = _trace_embed(spec, kinds)
    shapes = {name: value.shape for name, value in embed.outputs.items()}

    def head(b: Builder, given: dict[str, Value]) -> dict[str, Value]:
        with _code_of(spec.kind):
            return {"logits": layer_kind(spec.kind).head(b, given["x"], spec)}

    def traced(functions: Mapping[str, BlockFunction | None]) -> dict[str, Program]:
        return {
            name: _trace_state(function, spec, shapes, name)
            for name, function in functions.items()
            if function is not None
        }

    programs = Programs(
        input=model_input(spec),
        embed=embed,
        layer=traced({name: kind.layer for name, kind in kinds.items()}),
        enter=traced({name: kind.enter for name, kind in kinds.items()}),
        leave=traced({name: kind.leave for name, kind in kinds.items()}),
        head=trace({"x": shapes["x"]}, head),
    )
    for name, kind in kinds.items():
        _require_causal(name, kind, programs)
    return programs


def _require_causal(name: str, kind: LayerKind, programs: Programs) -> None:
    """A kind that says it is causal must be: training on text depends on it."""
    ends = (programs.enter.get(name), programs.leave.get(name))
    nodes = [node for p in (programs.layer[name], *ends) if p is not None for node in p.nodes]
    looks_ahead = any(isinstance(node.op, Attention) and not node.op.causal for node in nodes)
    if kind.causal and looks_ahead:
        message = f"the layer kind '{name}' has attention that sees later positions"
        hint = "write causal=False in its LayerKind, or Attention() in its layer"
        raise GraphError(Problem("not-causal", message, hint=hint))


@contextmanager
def _code_of(kind: str) -> Iterator[None]:
    """What goes wrong in the code of a kind of another package, as an error that names it."""
    try:
        yield
    except RinscError:
        raise
    except Exception as error:
        place = kind_place(kind)
        if place.package == "rinsc":
            raise
        raise _broken_kind(kind, place, f"{type(error).__name__}: {error}") from error


def _trace_embed(spec: ModelSpec, kinds: Mapping[str, LayerKind]) -> Program:
    """The model's own kind makes the state, each kind of a block the side values it needs."""
    given = model_input(spec)
    makers: dict[SideFunction, list[str]] = {}
    for name, kind in kinds.items():
        makers.setdefault(kind.sides, []).append(name)

    def embed(b: Builder, values: dict[str, Value]) -> dict[str, Value]:
        with _code_of(spec.kind):
            made = {"x": layer_kind(spec.kind).embed(b, values[given.name], spec)}
        for maker, names in makers.items():
            with _code_of(names[0]), _named(names[0]):
                sides = maker(b, values[given.name], made["x"], spec)
                taken = sorted(sides.keys() & made.keys())
                if taken:
                    message = f"two layer kinds make a side value '{taken[0]}'"
                    hint = "take the same function for both (rinsc.layers.rotary), or rename one"
                    raise GraphError(Problem("side-taken", message, hint=hint))
            made |= sides
        if any(kind.sees_embedding for kind in kinds.values()):
            made["embedded"] = made["x"]
        return made

    return trace({given.name: given.shape}, embed)


@contextmanager
def _named(kind: str) -> Iterator[None]:
    """Errors of the side values of a kind say whose they are."""
    try:
        yield
    except GraphError as error:
        named = [replace(p, place=p.place or f"sides of the kind '{kind}'") for p in error.problems]
        raise GraphError(*named) from None


def _trace_state(
    function: BlockFunction, spec: ModelSpec, shapes: dict[str, Shape], kind: str
) -> Program:
    """A program from state and side values to state."""

    def run(b: Builder, given: dict[str, Value]) -> dict[str, Value]:
        sides = {name: value for name, value in given.items() if name != "x"}
        with _code_of(kind):
            made = function(b, given["x"], sides, spec)
            if not isinstance(made, Value):
                raise TypeError(f"a layer must return a value, not {type(made).__name__}")
            return {"x": made}

    program = trace(shapes, run)
    if program.outputs["x"].shape != shapes["x"]:
        found = program.outputs["x"].shape
        message = f"a layer of kind '{kind}' turns {shapes['x']} into {found}"
        hint = "a layer must give the state back in the shape it came"
        raise GraphError(Problem("layer-changes-shape", message, hint=hint))
    return program
