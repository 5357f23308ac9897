"""The classes of layers and blocks in an emitted module, and how their weights start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from textwrap import wrap

from rinsc.backends.torch.ops import TORCH_OPS
from rinsc.backends.torch.statements import (
    INDENT,
    call,
    definition,
    indented,
    shape_text,
    statements,
)
from rinsc.graph import Block, BlockGraph, Loop, Visit
from rinsc.layers import (
    BlockWeights,
    Programs,
    block_weights,
    trace_programs,
)
from rinsc.layers.auxiliary import LOSSES, has_losses
from rinsc.layers.cached import HOST, cache_inputs
from rinsc.layers.weight_names import LAYERS, TIED
from rinsc.ops.program import Node, Program
from rinsc.syntax.settings import Tie

SLOTS = "Iterator[torch.Tensor]"
WIDEST = 92  # columns of a statement in a method, so that a file keeps to 100
MAX_PERIOD = 6  # of a pattern of layers that is written once, such as five local and one global
SHAPES_WIDTH = 88  # columns of a comment with the shapes of a layer's inputs


@dataclass(frozen=True)
class BlockClass:
    """What blocks of one class share; ``in_place`` and ``backwards`` are ways of visiting them."""

    name: str
    weights: BlockWeights  # of one of its blocks
    programs: Programs
    variants: tuple[Program, ...]  # what layers of its blocks do; most kinds have one
    in_place: bool
    backwards: bool
    cached: bool = False
    hosted: bool = False

    @property
    def layers(self) -> tuple[Program, ...]:
        """Those of the one block."""
        return self.programs.layers[self.weights.block.name]

    def layer_name(self, layer: Program) -> str:
        """The class of a layer: ``LlamaLayer``, and a number where layers differ."""
        if len(self.variants) == 1:
            return f"{self.name}Layer"
        return f"{self.name}Layer{[own.key for own in self.variants].index(layer.key) + 1}"

    def construction(self, start: str) -> list[str]:
        """The statement that makes the block, of the number of its layers or of their classes."""
        arguments = [str(len(self.layers))]
        if len(self.variants) > 1:
            arguments = _repeated([self.layer_name(layer) for layer in self.layers])
        line = f"{start}{self.name}Block({', '.join(arguments)})"
        if len(line) <= WIDEST:
            return [line]
        return [f"{start}{self.name}Block(", *(f"    {name}," for name in arguments), ")"]

    @property
    def enter(self) -> Program | None:
        return self.programs.enter.get(self.weights.block.kind)

    @property
    def leave(self) -> Program | None:
        return self.programs.leave.get(self.weights.block.kind)

    @property
    def sides(self) -> list[str]:
        """Side values that its layers use, in the order in which the model makes them."""
        used = {
            name
            for program in (self.enter, *self.variants, self.leave)
            if program is not None
            for name, value in program.inputs.items()
            if name != "x" and any(value in node.inputs for node in program.nodes)
        }
        handed = {*self.host, *(name for layer in self.variants for name in cache_inputs(layer))}
        inputs = dict.fromkeys(name for layer in self.variants for name in layer.inputs)
        return [name for name in inputs if name in used and name not in handed]

    @property
    def layer_result(self) -> str:
        return "tuple[torch.Tensor, ...]" if self.cached else "torch.Tensor"

    @property
    def host(self) -> list[str]:
        """What a layer is handed on from the caller of a hosted model, and what keeps losses."""
        keeps = not self.cached and any(map(has_losses, self.variants))
        return [*(HOST if self.hosted else ()), *[LOSSES] * keeps]

    @property
    def slots(self) -> int:
        """How many keys and values of a cache one visit is given."""
        return sum(len(cache_inputs(layer)) for layer in self.layers)

    @property
    def slots_of_a_layer(self) -> int | None:
        """How many a layer is given; None where layers differ in it."""
        counts = {len(cache_inputs(layer)) for layer in self.variants}
        return counts.pop() if len(counts) == 1 else None


def _repeated(names: Sequence[str]) -> list[str]:
    """Arguments that say names in a row: ``*[One, Other] * 3``, ``*[One] * 5``, ``Other``."""
    for period in range(1, MAX_PERIOD + 1):
        again = list(names[:period]) * (len(names) // period)
        text = f"*[{', '.join(names[:period])}] * {len(names) // period}"
        if period < len(names) and again == list(names) and len(text) < WIDEST - len(INDENT):
            return [text]
    counts = [(name, len(list(same))) for name, same in groupby(names)]
    return [name if count == 1 else f"*[{name}] * {count}" for name, count in counts]


def block_classes(
    graph: BlockGraph,
    programs: Programs,
    *,
    cached: bool = False,
    hosted: bool = False,
    relatives: Iterable[BlockGraph] = (),
) -> dict[str, BlockClass]:
    """The class of each block by the block's name, which ``relatives`` can visit as well.

    ``relatives`` are all graphs of the model, ``graph`` among them; none means it is alone.
    """
    graphs = tuple(relatives) or (graph,)
    visits = [visit for member in graphs for visit in _visits(member)]
    blocks = {block.name: block for member in graphs for block in member.blocks.values()}
    names = _class_names(blocks.values())
    kin = _sharing_blocks(graph, graphs)
    classes: dict[str, BlockClass] = {}
    for name, block in graph.blocks.items():
        alike = {
            other.name
            for other in blocks.values()
            if (other.kind, other.tie) == (block.kind, block.tie)
        }
        ways = [visit for visit in visits if visit.block in alike]
        variants: dict[tuple[object, ...], Program] = {}
        for member in kin:
            own = programs if member is graph else trace_programs(member.spec).trained
            layers = own.distinct_layers(other for other in member.blocks if other in alike)
            for layer in layers:
                variants.setdefault(layer.key, layer)
        classes[name] = BlockClass(
            names[block.kind, block.tie],
            block_weights(graph, name),
            programs,
            tuple(variants.values()),
            any(visit.each > 1 for visit in ways),
            any(visit.reverse for visit in ways),
            cached,
            hosted,
        )
    return classes


def _sharing_blocks(graph: BlockGraph, graphs: Sequence[BlockGraph]) -> list[BlockGraph]:
    """The graphs that have blocks with this one in common, or with one that has, in order."""
    kin, before = {id(graph)}, 0
    while len(kin) > before:
        before = len(kin)
        shared = {name for member in graphs if id(member) in kin for name in member.blocks}
        kin |= {id(member) for member in graphs if shared & member.blocks.keys()}
    return [member for member in graphs if id(member) in kin]


def _class_names(blocks: Iterable[Block]) -> dict[tuple[str, Tie | None], str]:
    """``Llama``, ``LlamaTiedMlp``; names of kinds that come out the same are numbered."""
    names: dict[tuple[str, Tie | None], str] = {}
    for block in blocks:
        title = block.kind.title().replace("_", "")
        name = title if block.tie is None else f"{title}Tied{block.tie.title()}"
        if (block.kind, block.tie) not in names:
            alike = sum(other.rstrip("0123456789") == name for other in names.values())
            names[block.kind, block.tie] = f"{name}{alike + 1}" if alike else name
    return names


def class_sources(classes: Iterable[BlockClass]) -> list[str]:
    """Source of each distinct class, with the classes of its layers before it."""
    chunks = []
    for block_class in {block_class.name: block_class for block_class in classes}.values():
        if any(block_class.weights.is_tied(node) for node in block_class.variants[0].nodes):
            chunks.append(_tied_class(block_class))
        chunks += [_layer_class(block_class, layer) for layer in block_class.variants]
        chunks.append(_block_class(block_class))
    return chunks


def own_lines(nodes: Iterable[Node]) -> Iterator[str]:
    """The lines of ``__init__`` that make what the operations own."""
    for node in nodes:
        module = TORCH_OPS[type(node.op)].module
        if module is not None:
            yield module(node)


def visit_text(visit: Visit, arguments: str, recomputing: bool = False) -> str:
    """The call that visits a block, whose work may be repeated when training."""
    times = f", each={visit.each}" if visit.each > 1 else ""
    reverse = ", reverse=True" if visit.reverse else ""
    inputs = f"{arguments}{times}{reverse}"
    if recomputing:
        return f"x = recomputed(by_visit, self.{visit.block}, {inputs})"
    return f"x = self.{visit.block}({inputs})"


def _visits(graph: BlockGraph) -> Iterator[Visit]:
    """Every visit that is written down, a loop's body once."""
    for step in graph.steps():
        if isinstance(step, Loop):
            yield from _visits(step.body)
        else:
            yield step


def _tied_class(block_class: BlockClass) -> str:
    """The part that all layers of a block share."""
    nodes = [node for node in block_class.variants[0].nodes if block_class.weights.is_tied(node)]
    lines = [
        f'"""The {block_class.weights.block.tie} that all layers of a block share."""',
        "",
        "def __init__(self) -> None:",
        *indented(["super().__init__()", *own_lines(nodes)]),
    ]
    return f"\nclass {block_class.name}Part(nn.Module):\n" + "\n".join(indented(lines)) + "\n"


def _layer_class(block_class: BlockClass, layer: Program) -> str:
    tied = block_class.weights.block.tie is not None
    program = _with_owner(layer, block_class.weights) if tied else layer
    past = cache_inputs(layer)
    lines, results = statements(program, {name: name for name in program.inputs})
    inputs = ["x", *block_class.sides]
    shapes = ", ".join(f"{name} {shape_text(program.inputs[name])}" for name in inputs)
    parameters = [f"{name}: torch.Tensor" for name in inputs]
    parameters += [f"{name}: torch.Tensor | None" for name in past]
    parameters += _host_parameters(block_class)
    if tied:
        parameters.append(f"{TIED}: {block_class.name}Part")
    own = [node for node in layer.nodes if not block_class.weights.is_tied(node)]
    slots = (
        [f"slots = {len(past)}", ""]
        if block_class.cached and block_class.slots_of_a_layer is None
        else []
    )
    returned = ", ".join(results.values())
    alone = block_class.cached and len(results) == 1  # still a tuple, for those who unpack it
    text = "\n".join([*lines, f"return ({returned},)" if alone else f"return {returned}"])
    body = [
        '"""One layer: state to state."""',
        "",
        *slots,
        "def __init__(self) -> None:",
        *indented(["super().__init__()", *own_lines(own)]),
        "",
        *definition("forward", parameters, block_class.layer_result),
        *indented(
            [
                *(f"# {line}" for line in wrap(shapes, SHAPES_WIDTH)),
                *text.replace(f"self.{TIED}.", f"{TIED}.").splitlines(),
            ]
        ),
    ]
    return (
        f"\nclass {block_class.layer_name(layer)}(nn.Module):\n" + "\n".join(indented(body)) + "\n"
    )


def _host_parameters(block_class: BlockClass) -> list[str]:
    types = {"mask": "torch.Tensor", "slots": "Slots", LOSSES: "Losses"}
    return [f"{name}: {types[name]} | None" for name in block_class.host]


def _with_owner(program: Program, weights: BlockWeights) -> Program:
    """The program with its tied operations called ``tied.query``, as its layers find them."""
    nodes = tuple(
        replace(node, name=f"{TIED}.{node.name}") if node.name and weights.is_tied(node) else node
        for node in program.nodes
    )
    return replace(program, nodes=nodes)


def _block_class(block_class: BlockClass) -> str:
    framed = block_class.weights.framed
    parameters = [f"{name}: torch.Tensor" for name in ("x", *block_class.sides)]
    parameters += [f"past: {SLOTS}", "present: list[torch.Tensor]"] if block_class.cached else []
    parameters += _host_parameters(block_class)
    parameters += ["each: int = 1"] if block_class.in_place else []
    parameters += ["reverse: bool = False"] if block_class.backwards else []
    if len(block_class.variants) > 1:
        parameter, layers = "*layers: type[nn.Module]", "layer() for layer in layers"
    else:
        parameter = "layers: int"
        layers = f"{block_class.layer_name(block_class.variants[0])}() for _ in range(layers)"
    init = _framed_init(block_class, layers) if framed else [f"super().__init__({layers})"]
    body = [
        '"""Layers run one after the other; every visit uses the same weights."""',
        "",
        f"def __init__(self, {parameter}) -> None:",
        *indented(init),
        "",
        *definition("forward", parameters, "torch.Tensor"),
        *indented(_block_forward(block_class)),
    ]
    base = "nn.Module" if framed else "nn.ModuleList"
    return f"\nclass {block_class.name}Block({base}):\n" + "\n".join(indented(body)) + "\n"


def _framed_init(block_class: BlockClass, layers: str) -> list[str]:
    lines = ["super().__init__()", *own_lines(block_class.enter.nodes if block_class.enter else ())]
    if block_class.weights.block.tie is not None:
        lines.append(f"self.{TIED} = {block_class.name}Part()")
    lines.append(f"self.{LAYERS} = nn.ModuleList({layers})")
    return [*lines, *own_lines(block_class.leave.nodes if block_class.leave else ())]


def _block_forward(block_class: BlockClass) -> list[str]:
    layers = f"self.{LAYERS}" if block_class.weights.framed else "self"
    order = f"reversed({layers}) if reverse else {layers}" if block_class.backwards else layers
    tied = [f"self.{TIED}"] if block_class.weights.block.tie is not None else []
    slots = ["next(past, None)"] * (block_class.slots_of_a_layer or 0)
    if block_class.slots_of_a_layer is None:
        slots = ["*(next(past, None) for _ in range(layer.slots))"]
    start = "x, *made = layer" if block_class.cached else "x = layer"
    arguments = ["x", *block_class.sides, *slots, *block_class.host, *tied]
    run = call(start, arguments, indent=2 + block_class.in_place)
    run += ["present += made"] if block_class.cached else []
    if block_class.in_place:
        run = ["for _ in range(each):", *indented(run)]
    return [
        *_end_lines(block_class.enter, "x = "),
        f"for layer in {order}:",
        *indented(run),
        *_end_lines(block_class.leave, "return "),
    ]


def _end_lines(program: Program | None, last: str) -> list[str]:
    """Statements for the start or the end of a visit; ``last`` is what is done with the state."""
    if program is None:
        return ["return x"] if last == "return " else []
    lines, results = statements(program, {name: name for name in program.inputs})
    return [*lines, f"{last}{results['x']}"]
