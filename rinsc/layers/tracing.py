"""The programs of a model, traced from its layer kinds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from keyword import iskeyword
from typing import TypeAlias, TypeVar

from rinsc.errors import GraphError, Problem, RinscError, SignatureError
from rinsc.layers.auxiliary import has_losses, with_losses, without_losses
from rinsc.layers.kind import (
    BlockFunction,
    LayerKind,
    ModelInput,
    SideFunction,
    forget_traces,
    layer_kind,
    model_input,
)
from rinsc.layers.unread import read_inputs, without_inputs, without_outputs
from rinsc.ops import Embedding, Param, Shape, TiedLinear
from rinsc.ops.program import Builder, Program, Value, trace
from rinsc.spec import ModelSpec
from rinsc.spec.kinds import broken_kind, source_of_kind
from rinsc.syntax.tree import mentions


def check_programs(spec: ModelSpec, kinds: Mapping[str, LayerKind], programs: Programs) -> None:
    """Raises `GraphError` for the first thing that is wrong with a kind, and `SignatureError` for
    a part to tie that there is not."""
    for name, kind in kinds.items():
        _require_causal(name, kind, spec.block_kinds, programs)
        _require_names_apart(name, programs)
        _require_losses_in_layers(name, programs)
    _require_tied_table(programs)
    _require_tied_parts(spec, programs)


def _require_names_apart(name: str, programs: Programs) -> None:
    """What a block owns at its start and at its end are weights of one module."""
    ends = [programs.enter.get(name), programs.leave.get(name)]
    owned = [node.name for end in ends if end is not None for node in end.nodes if node.name]
    doubled = [name_of_one for name_of_one in owned if owned.count(name_of_one) > 1]
    if doubled:
        message = (
            f"enter and leave of the layer kind '{name}' both have an operation '{doubled[0]}'"
        )
        raise GraphError("bad-operation-name", message, hint="rename one of the two")


def _require_losses_in_layers(name: str, programs: Programs) -> None:
    others = (programs.embed, programs.head, programs.enter.get(name), programs.leave.get(name))
    if any(program is not None and has_losses(program) for program in others):
        message = f"the layer kind '{name}' adds to the loss outside of its layers"
        hint = "use AuxiliaryLoss in the function 'layer' alone"
        raise GraphError("misplaced-loss", message, hint=hint)


def _require_tied_table(programs: Programs) -> None:
    """A head that uses a table of the embedding must name one that is there."""
    names = {node.name for node in programs.embed.nodes if isinstance(node.op, Embedding)}
    for node in programs.head.nodes:
        if isinstance(node.op, TiedLinear) and node.op.owner not in names:
            message = f"the head is tied to '{node.op.owner}', which is no table of the embedding"
            hint = f"name one of: {', '.join(sorted(names))}"
            raise GraphError("no-such-table", message, hint=hint)


def _require_tied_parts(spec: ModelSpec, programs: Programs) -> None:
    """Raises `SignatureError` for ``tie`` of a part that the block's layers do not have."""
    for name, own in spec.block_options.items():
        kind = spec.block_kinds[name]
        layers = programs.layers[name]
        if own.tie is None or all(_weights_of_part(layer, own.tie) for layer in layers):
            _require_equal_parts(name, own.tie, layers)
            continue
        options = [option for ref in mentions(spec.signature.body) for option in ref.options]
        option = next(o for o in options if (o.name, o.value) == ("tie", own.tie))
        message = f"layers of kind '{kind}' have no part '{own.tie}' with weights to share"
        hint = f"take tie={own.tie} away, or choose another kind"
        source = spec.signature.source
        problem = Problem("nothing-to-tie", message, source=source, span=option.span, hint=hint)
        raise SignatureError.of(problem)


def _weights_of_part(layer: Program, part: str) -> dict[str, Param]:
    return {p.name: p for node in layer.nodes if node.part == part for p in node.params}


def _require_equal_parts(block: str, part: str | None, layers: Sequence[Program]) -> None:
    """Layers of one block can share only what all of them have."""
    if part is None:
        return
    if any(_weights_of_part(layer, part) != _weights_of_part(layers[0], part) for layer in layers):
        message = f"the layers of block {block} do not have the same weights in '{part}' to share"
        hint = "give them the same, or take 'tie' away"
        raise GraphError("nothing-to-tie", message, hint=hint)


def _require_causal(
    name: str, kind: LayerKind, kinds: Mapping[str, str], programs: Programs
) -> None:
    """A kind that says it is causal must be: training on text depends on it."""
    ends = (programs.enter.get(name), programs.leave.get(name))
    layers = programs.distinct_layers(block for block, own in kinds.items() if own == name)
    runs = [without_losses(layer) for layer in layers]
    nodes = [node for p in (*runs, *ends) if p is not None for node in p.nodes]
    ahead = [type(node.op).__name__ for node in nodes if node.op.reach == "any"]
    if kind.causal and ahead:
        message = f"the layer kind '{name}' has {ahead[0].lower()} that sees later positions"
        hint = "write causal=False in its LayerKind, or take what sees earlier positions alone"
        raise GraphError("not-causal", message, hint=hint)


Rewritten = TypeVar("Rewritten")
Layers: TypeAlias = dict[str, tuple[Rewritten, ...]]


@dataclass(frozen=True)
class Programs:
    """A model's programs: everything that costs and backends need to know of its layers.

    ``layers`` are by block, a program for each of its layers; layers that do the same have one
    program. ``enter`` and ``leave`` are by kind, for the kinds that some block has.
    """

    input: ModelInput
    embed: Program
    layers: Mapping[str, tuple[Program, ...]]
    enter: Mapping[str, Program]
    leave: Mapping[str, Program]
    head: Program

    @property
    def output(self) -> tuple[str, Value]:
        """The one output of the model, ``logits`` or ``embedding``."""
        (output,) = self.head.outputs.items()
        return output

    @property
    def every(self) -> tuple[Program, ...]:
        blocks = (*self.enter.values(), *self.distinct_layers(), *self.leave.values())
        return (self.embed, *blocks, self.head)

    def distinct_layers(self, blocks: Iterable[str] | None = None) -> tuple[Program, ...]:
        """What the layers of these blocks do, or those of all, each program once."""
        names = self.layers if blocks is None else blocks
        return tuple({id(p): p for name in names for p in self.layers[name]}.values())

    def layer_counts(self, block: str) -> list[tuple[Program, int]]:
        """The programs of a block's layers, and how many of its layers each is."""
        counts = Counter(id(program) for program in self.layers[block])
        return [(program, counts[id(program)]) for program in self.distinct_layers([block])]

    def varies(self, block: str) -> bool:
        """Whether layers of the block differ."""
        return len(self.distinct_layers([block])) > 1

    @property
    def trained(self) -> Programs:
        """Those of a module that trains, whose layers are given where to keep losses."""
        return replace(self, layers=self.rewritten(lambda _, layer: with_losses(layer)))

    @property
    def inferred(self) -> Programs:
        """Those without the losses that layers add in training."""
        return replace(self, layers=self.rewritten(lambda _, layer: without_losses(layer)))

    def rewritten(self, rewrite: Callable[[str, Program], Rewritten]) -> Layers[Rewritten]:
        """``layers`` after a function of block and program, which runs once a program."""
        done: dict[int, Rewritten] = {}
        for block in self.layers:
            for program in self.distinct_layers([block]):
                if id(program) not in done:
                    done[id(program)] = rewrite(block, program)
        return {b: tuple(done[id(program)] for program in own) for b, own in self.layers.items()}


# Names in emitted modules that a side value must leave alone.
RESERVED = frozenset(
    (
        *("x", "embedded", "each", "reverse", "rounds", "counts", "tied", "layer", "self"),
        *("past", "present", "made", "slots", "size", "mask", "position_ids", "attention_mask"),
        *("by_visit", "by_round", "keep", "visited", "inputs_embeds", "losses"),
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

    def head(b: Builder, inputs: dict[str, Value]) -> dict[str, Value]:
        with _code_of(spec.kind), b.of_kind(spec.settings_of(spec.kind)):
            kind = layer_kind(spec.kind)
            output = _value(kind.head(b, inputs["x"], spec), "head")
            shape = output.shape
            if kind.gives == "embedding" and (len(shape) != 2 or shape[0] != "batch"):
                raise TypeError(f"a head must give an embedding (batch, width), not {shape}")
            if kind.gives == "logits" and (shape[0] != "batch" or shape[-1] != spec.vocab_size):
                raise TypeError(f"a head must give logits (batch, …, vocab_size), not {shape}")
            return {kind.gives: output}

    def traced(functions: Mapping[str, BlockFunction | None]) -> dict[str, Program]:
        return {
            name: _trace_state(function, spec, shapes, name)
            for name, function in functions.items()
            if function is not None
        }

    programs = Programs(
        input=model_input(spec),
        embed=embed,
        layers=_trace_layers(spec, shapes, kinds),
        enter=traced({name: kind.enter for name, kind in kinds.items()}),
        leave=traced({name: kind.leave for name, kind in kinds.items()}),
        head=trace({"x": shapes["x"]}, head),
    )
    check_programs(spec, kinds, programs)
    return _without_unread(programs)


def _without_unread(programs: Programs) -> Programs:
    """The programs without side values that no layer reads."""
    others = (*programs.enter.values(), *programs.distinct_layers(), *programs.leave.values())
    unread = programs.embed.outputs.keys() - read_inputs(others) - {"x"}
    if not unread:
        return programs

    def rewritten(program: Program) -> Program:
        return without_inputs(program, unread)

    return replace(
        programs,
        embed=without_outputs(programs.embed, unread),
        layers=programs.rewritten(lambda _, layer: rewritten(layer)),
        enter={name: rewritten(program) for name, program in programs.enter.items()},
        leave={name: rewritten(program) for name, program in programs.leave.items()},
    )


forget_traces.append(trace_programs.cache_clear)


def _value(value: object, function: str) -> Value:
    """What a function of a kind must return."""
    if not isinstance(value, Value):
        raise TypeError(f"{function} must return a value, not {type(value).__name__}")
    return value


@contextmanager
def _code_of(kind: str) -> Iterator[None]:
    """What goes wrong in the code of a kind of another package, as an error that names it."""
    try:
        yield
    except RinscError:
        raise
    except Exception as error:
        origin = source_of_kind(kind)
        if origin.package == "rinsc":
            raise
        raise broken_kind(kind, origin, f"{type(error).__name__}: {error}") from error


def _trace_embed(spec: ModelSpec, kinds: Mapping[str, LayerKind]) -> Program:
    """The model's own kind makes the state, each kind of a block the side values it needs."""
    takes = model_input(spec)
    makers: dict[SideFunction, list[str]] = {}
    for name, kind in kinds.items():
        for function in kind.side_functions:
            makers.setdefault(function, []).append(name)

    def embed(b: Builder, values: dict[str, Value]) -> dict[str, Value]:
        with _code_of(spec.kind), b.of_kind(spec.settings_of(spec.kind)):
            x = _value(layer_kind(spec.kind).embed(b, values[takes.name], spec), "embed")
            outputs = {"x": x}
        positions = values[takes.name] if takes.has_positions else x
        for maker, names in makers.items():
            own = [spec.settings_of(name) for name in names]
            with _code_of(names[0]), _named(names[0]), b.of_kind(own[0]):
                sides = maker(b, positions, outputs["x"], spec)
                if b.read_settings and any(settings != own[0] for settings in own):
                    message = f"the kinds {', '.join(names)} make their side values with one "
                    message += "function and other settings"
                    hint = "give the kinds the same settings, or functions of their own"
                    raise GraphError("side-taken", message, hint=hint)
                for side, value in sides.items():
                    _value(value, "sides, under each name,")
                    free = side not in RESERVED and not side.startswith(RESERVED_PREFIXES)
                    if not free or not side.isidentifier() or iskeyword(side):
                        raise ValueError(f"a side value cannot be called {side!r}")
                doubled = sorted(sides.keys() & outputs.keys())
                if doubled:
                    message = f"two layer kinds make a side value '{doubled[0]}'"
                    hint = "take the same function for both (rinsc.layers.mixing), or rename one"
                    raise GraphError("side-taken", message, hint=hint)
            outputs |= sides
        if any(kind.sees_embedding for kind in kinds.values()):
            outputs["embedded"] = outputs["x"]
        return outputs

    return trace({takes.name: takes.shape}, embed)


@contextmanager
def _named(kind: str) -> Iterator[None]:
    """Errors of the side values of a kind say whose they are."""
    try:
        yield
    except GraphError as error:
        named = [replace(p, place=p.place or f"sides of the kind '{kind}'") for p in error.problems]
        raise GraphError.of(*named) from None


def _trace_state(
    function: BlockFunction, spec: ModelSpec, shapes: dict[str, Shape], kind: str
) -> Program:
    """A program from state and side values to state."""
    return _trace_layer(function, spec, shapes, kind, None)[0]


def _trace_layers(
    spec: ModelSpec, shapes: dict[str, Shape], kinds: Mapping[str, LayerKind]
) -> Layers[Program]:
    """The program of every layer; a kind that never asks which layer it is has one for all."""
    layers: Layers[Program] = {}
    shared: dict[str, Program] = {}  # of kinds whose layers are alike
    known: dict[tuple[str, tuple[object, ...]], Program] = {}
    start = 0
    for block, count in spec.parts.items():
        kind = spec.block_kinds[block]
        own: list[Program] = []
        for index in range(count):
            if kind in shared:
                own += [shared[kind]] * (count - index)
                break
            numbers = (index, start + index)
            program, reads = _trace_layer(kinds[kind].layer, spec, shapes, kind, numbers)
            if not reads:
                shared[kind] = program
            own.append(known.setdefault((kind, program.key), program))
        layers[block] = tuple(own)
        start += count
    return layers


def _trace_layer(
    function: BlockFunction,
    spec: ModelSpec,
    shapes: dict[str, Shape],
    kind: str,
    numbers: tuple[int, int] | None,
) -> tuple[Program, bool]:
    """The program of the layer with these numbers, and whether it depends on them."""
    reads = False

    def run(b: Builder, inputs: dict[str, Value]) -> dict[str, Value]:
        nonlocal reads
        sides = {name: value for name, value in inputs.items() if name != "x"}
        with ExitStack() as stack:
            stack.enter_context(_code_of(kind))
            stack.enter_context(b.of_kind(spec.settings_of(kind)))
            if numbers is not None:
                stack.enter_context(b.of_layer(*numbers))
            outputs = {"x": _value(function(b, inputs["x"], sides, spec), "a layer")}
        reads = b.read_index
        return outputs

    program = trace(shapes, run)
    if program.outputs["x"].shape != shapes["x"]:
        shape = program.outputs["x"].shape
        message = f"a layer of kind '{kind}' turns {shapes['x']} into {shape}"
        hint = "a layer must give the state back in the shape it came"
        raise GraphError("layer-changes-shape", message, hint=hint)
    return program, reads
