"""The programs of a model, traced from its layer kinds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from keyword import iskeyword

from rinsc.errors import GraphError, Problem, RinscError
from rinsc.kinds import kind_place
from rinsc.layers.kind import (
    BlockFunction,
    LayerKind,
    SideFunction,
    broken_kind,
    forget_traces,
    layer_kind,
    model_input,
)
from rinsc.layers.kind_checks import check_programs
from rinsc.layers.programs import Programs
from rinsc.ops import Shape
from rinsc.program import Builder, Program, Value, trace
from rinsc.spec import ModelSpec

# Names in emitted modules that a side value must leave alone.
RESERVED = frozenset(
    (
        *("x", "embedded", "each", "reverse", "rounds", "counts", "tied", "layer", "self"),
        *("past", "present", "made", "slots", "size", "mask", "position_ids", "attention_mask"),
        *("by_visit", "by_round", "keep", "visited", "inputs_embeds"),
    )
)
RESERVED_PREFIXES = ("past_", "present_", "made_", "kept_", "shared_", "entry_", "given_", "round_")


@lru_cache(maxsize=64)
def trace_programs(spec: ModelSpec) -> Programs:
    """The programs of a spec, traced from its layer kind and from those of its blocks.

    Raises `GraphError` for a kind whose operations do not fit each other, or what it says of
    itself, and `SignatureError` for a part to tie that its layers do not have.
    """
    names = list(dict.fromkeys(spec.block_kinds.values()))
    kinds = {name: layer_kind(name) for name in names}
    embed = _trace_embed(spec, kinds)
    shapes = {name: value.shape for name, value in embed.outputs.items()}

    def head(b: Builder, given: dict[str, Value]) -> dict[str, Value]:
        with _code_of(spec.kind):
            made = _value(layer_kind(spec.kind).head(b, given["x"], spec), "head")
            if made.shape[0] != "batch" or made.shape[-1] != spec.vocab_size:
                raise TypeError(f"a head must give logits (batch, …, vocab_size), not {made.shape}")
            return {"logits": made}

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
    check_programs(spec, kinds, programs)
    return programs


forget_traces.append(trace_programs.cache_clear)


def _value(made: object, function: str) -> Value:
    """What a function of a kind must return."""
    if not isinstance(made, Value):
        raise TypeError(f"{function} must return a value, not {type(made).__name__}")
    return made


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
        raise broken_kind(kind, place, f"{type(error).__name__}: {error}") from error


def _trace_embed(spec: ModelSpec, kinds: Mapping[str, LayerKind]) -> Program:
    """The model's own kind makes the state, each kind of a block the side values it needs."""
    given = model_input(spec)
    makers: dict[SideFunction, list[str]] = {}
    for name, kind in kinds.items():
        makers.setdefault(kind.sides, []).append(name)

    def embed(b: Builder, values: dict[str, Value]) -> dict[str, Value]:
        with _code_of(spec.kind):
            made = {"x": _value(layer_kind(spec.kind).embed(b, values[given.name], spec), "embed")}
        for maker, names in makers.items():
            with _code_of(names[0]), _named(names[0]):
                sides = maker(b, values[given.name], made["x"], spec)
                for side, value in sides.items():
                    _value(value, "sides, under each name,")
                    free = side not in RESERVED and not side.startswith(RESERVED_PREFIXES)
                    if not free or not side.isidentifier() or iskeyword(side):
                        raise ValueError(f"a side value cannot be called {side!r}")
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
            return {"x": _value(function(b, given["x"], sides, spec), "a layer")}

    program = trace(shapes, run)
    if program.outputs["x"].shape != shapes["x"]:
        found = program.outputs["x"].shape
        message = f"a layer of kind '{kind}' turns {shapes['x']} into {found}"
        hint = "a layer must give the state back in the shape it came"
        raise GraphError(Problem("layer-changes-shape", message, hint=hint))
    return program
