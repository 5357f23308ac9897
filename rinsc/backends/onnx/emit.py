"""Block graph to ONNX graph: programs, visits and loops, the same for every form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import onnx_ir as ir

from rinsc.backends.onnx.builder import BOOL, FLOAT, INT64, OpBuilder, make_value, shape_of
from rinsc.backends.onnx.cache import Slots, graph_slots, name_present, recorded, replayed
from rinsc.backends.onnx.guards import guarded
from rinsc.backends.onnx.ops import ONNX_OPS
from rinsc.backends.onnx.site import Site
from rinsc.backends.onnx.weights import Weights
from rinsc.graph import BlockGraph, Loop, Visit
from rinsc.graph.rounds import MAX_ROUNDS
from rinsc.layers import (
    BlockWeights,
    Programs,
    block_weights,
    loop_prefix,
    trace_loop,
    trace_programs,
)
from rinsc.layers.cached import MASK, cache_inputs, cache_outputs, cached_programs
from rinsc.ops import Shape
from rinsc.program import Node, Program, Value

OPSET = 23
DTYPES = {"int64": INT64, "float32": FLOAT}


def emit_graph(graph: BlockGraph, weights: Weights, *, cached: bool = False) -> ir.Graph:
    """The ONNX graph of a block graph; each of its loops becomes a ``Loop``.

    Inputs: ``input_ids`` (batch, seq), int64, or what else the layer kind takes; for every loop
    that is a dial ``rounds_<name>``, a number, int64. Output: ``logits`` (batch, seq, vocab_size).
    Every weight is stored once.

    A ``cached`` graph continues sequences: it is given ``attention_mask`` (batch, total), int64,
    and past keys and values too, and gives the present ones; its loops become ``Scan``. See
    `graph_slots`.
    """
    op = OpBuilder(weights)
    programs = cached_programs(graph.spec) if cached else trace_programs(graph.spec)
    takes = programs.input
    given = {
        name: make_value(name, value.shape, DTYPES[takes.dtype])
        for name, value in programs.embed.inputs.items()
    }
    dials = {loop.name: make_value(f"rounds_{loop.name}", (), INT64) for loop in graph.dials()}
    rounds = {name: _checked_rounds(op, value) for name, value in dials.items()}
    longest = given.get(MASK, given[takes.name])
    checked = {**given, str(longest.name): _checked_length(op, longest, graph.spec.context)}
    made = emit_program(op, programs.embed, checked)
    past: list[ir.Value] = []
    slots = graph_slots(past)
    walk = _Walk(op, graph, programs, _sites(graph), rounds, made, cached)
    x = walk.steps(graph, made["x"], slots)
    logits = emit_program(op, programs.head, {"x": x})["logits"]
    logits.name = "logits"
    return ir.Graph(
        [*given.values(), *past, *dials.values()],
        [logits, *name_present(slots)],
        nodes=op.nodes,
        initializers=list(op.initializers.values()),
        opset_imports={"": OPSET},
        name="model",
    )


def emit_program(
    op: OpBuilder,
    program: Program,
    given: Mapping[str, ir.Value],
    prefix: Callable[[Node], str] = lambda node: "",
) -> dict[str, ir.Value]:
    """The program's outputs; ``prefix`` says where an operation's weights stand: ``A.0.``."""
    values = {value: given[name] for name, value in program.inputs.items()}
    labels: dict[Value, str] = {}
    for node in program.nodes:
        label = _label(node, labels)
        with op.scope(node.part), op.scope(label):
            inputs = [values[value] for value in node.inputs]
            values[node.output] = ONNX_OPS[type(node.op)](op, Site(node, prefix(node)), inputs)
    return {name: values[value] for name, value in program.outputs.items()}


@dataclass
class _Walk:
    """The steps of a graph, one after the other, with what all of them share."""

    op: OpBuilder
    model: BlockGraph
    programs: Programs
    sites: Counter[str]
    rounds: Mapping[str, ir.Value]
    sides: Mapping[str, ir.Value]
    cached: bool
    visits: int = field(default=0)

    def steps(self, graph: BlockGraph, x: ir.Value, slots: Slots) -> ir.Value:
        for step in graph.steps():
            if isinstance(step, Visit):
                x = self.visit(step, x, slots)
            elif step.fixed:
                x = self.rounds_written_out(step, x, slots)
            else:
                x = self.scan(step, x, slots) if self.cached else self.loop(step, x, slots)
        return x

    def visit(self, visit: Visit, x: ir.Value, slots: Slots) -> ir.Value:
        """A block's layers in order; its visits are told apart where there are several."""
        self.visits += 1
        own = block_weights(self.model, visit.block)
        kind, layers = own.block.kind, range(own.block.layers)
        with self.op.scope(f"visit_{self.visits}" if self.sites[visit.block] > 1 else ""):
            x = self.end(self.programs.enter.get(kind), visit.block, x)
            for index in reversed(layers) if visit.reverse else layers:
                for time in range(visit.each):
                    scope = f"time_{time + 1}" if visit.each > 1 else ""
                    x = self.layer(own, index, scope, x, slots)
            return self.end(self.programs.leave.get(kind), visit.block, x)

    def layer(
        self, own: BlockWeights, index: int, time: str, x: ir.Value, slots: Slots
    ) -> ir.Value:
        program = self.programs.layer[own.block.kind]
        past = {name: slots.take(program.inputs[name].shape) for name in cache_inputs(program)}
        with self.op.scope(time), self.op.scope(own.layer(index).removesuffix(".")):
            given = {**self.sides, **past, "x": x}
            made = emit_program(self.op, program, given, partial(own.prefix, index))
        slots.present += [made[name] for name in cache_outputs(program)]
        return made["x"]

    def end(self, program: Program | None, block: str, x: ir.Value) -> ir.Value:
        """What a kind does where a visit starts or ends."""
        if program is None:
            return x
        with self.op.scope(block):
            given = {**self.sides, "x": x}
            return emit_program(self.op, program, given, lambda node: f"{block}.")["x"]

    def loop_program(
        self, program: Program | None, loop: Loop, **given: ir.Value
    ) -> ir.Value | None:
        """The state that one of a loop's programs makes; None without one."""
        if program is None:
            return None
        inputs = {name: given[name] for name in program.inputs}
        return emit_program(self.op, program, inputs, lambda node: loop_prefix(loop.name))["x"]

    def round(
        self, loop: Loop, entry: ir.Value, index: ir.Value | None, x: ir.Value, slots: Slots
    ) -> ir.Value:
        """One trip of a loop; ``index`` chooses the adapter, where there is one."""
        programs = trace_loop(self.model.spec, loop, cached=self.cached)
        known = {"entry": entry} if index is None else {"entry": entry, "index": index}
        given = self.loop_program(programs.before, loop, x=x, **known)
        given = x if given is None else given
        y = self.steps(loop.body, given, slots)
        after = self.loop_program(programs.after, loop, x=given, y=y, **known)
        return y if after is None else after

    def start(self, loop: Loop, entry: ir.Value) -> ir.Value:
        """The state before the first round; noise is that of the seed 0."""
        program = trace_loop(self.model.spec, loop, cached=self.cached).start
        known = {"entry": entry, **self.sides}
        if loop.options.start == "noise":
            known["seed"] = self.op.scalar(0)
        made = self.loop_program(program, loop, **known)
        return entry if made is None else made

    def rounds_written_out(self, loop: Loop, entry: ir.Value, slots: Slots) -> ir.Value:
        """Every round of a loop whose rounds are fixed."""
        adapter, slot = loop.options.adapter, loop.options.cache
        shared: list[ir.Value] = []
        kept: list[ir.Value] = []
        with self.op.scope(f"loop_{loop.name}"):
            x = self.start(loop, entry)
            for number in range(loop.rounds):
                index = loop.rounds - 1 if adapter and adapter.by == "count" else number
                chosen = self.op.scalar(index) if adapter else None
                own = slots
                if slot != "own":
                    own = replayed(iter(shared)) if number else recorded(slots, shared)
                with self.op.scope(f"round_{number + 1}"):
                    x = self.round(loop, entry, chosen, x, own)
                if slot != "own" and (number == 0 or slot == "last"):
                    kept = own.present
            slots.present += kept
            return x

    def scan(self, loop: Loop, entry: ir.Value, slots: Slots) -> ir.Value:
        """One ``Scan`` over the rounds' numbers and, where each has one, their cache slots."""
        op, rounds = self.op, self.rounds[loop.name]
        with op.scope(f"loop_{loop.name}"):
            x = self.start(loop, entry)
            numbers = op.Range(op.scalar(0), rounds, op.scalar(1), shape=("rounds",))
            last = op.Sub(rounds, op.scalar(1))
            shape = shape_of(x)
            state = make_value(op.scoped("x"), shape, FLOAT)
            number = make_value(op.scoped("round"), (), INT64)
            stacked: list[ir.Value] = []
            sliced: list[ir.Value] = []

            own = op.scoped("past")

            def take(wanted: Shape) -> ir.Value:
                if loop.options.cache != "own":
                    return slots.take(wanted)
                stacked.append(slots.take((f"rounds_{loop.name}", *wanted)))
                sliced.append(make_value(f"{own}_{len(sliced)}", wanted, FLOAT))
                return sliced[-1]

            inner = Slots(take)
            with op.body() as nodes:
                adapter = loop.options.adapter
                index = (last if adapter.by == "count" else number) if adapter else None
                result = self.round(loop, entry, index, state, inner)
            made = [result, *inner.present]
            body = ir.Graph([state, number, *sliced], made, nodes=nodes, name=op.scoped("body"))
            shapes = [shape, *((f"rounds_{loop.name}", *shape_of(v)) for v in inner.present)]
            x, *present = op.many(
                "Scan",
                [x, numbers, *stacked],
                {"body": body, "num_scan_inputs": 1 + len(stacked)},
                shapes,
            )
            if loop.options.cache != "own":
                which = op.scalar(0 if loop.options.cache == "first" else -1)
                present = [
                    op.Gather(value, which, axis=0, shape=shape_of(value)[1:]) for value in present
                ]
            slots.present += present
            return x

    def loop(self, loop: Loop, entry: ir.Value, slots: Slots) -> ir.Value:
        """One ``Loop``; its body reads weights and side values from the graph around it."""
        adapter = loop.options.adapter
        with self.op.scope(f"loop_{loop.name}"):
            x = self.start(loop, entry)
            last = None
            if adapter and adapter.by == "count":
                last = self.op.Sub(self.rounds[loop.name], self.op.scalar(1))
            shape = shape_of(x)
            trip = make_value(self.op.scoped("round"), (), INT64)
            go_on = make_value(self.op.scoped("go_on"), (), BOOL)
            state = make_value(self.op.scoped("x"), shape, FLOAT)
            with self.op.body() as nodes:
                still = self.op.Identity(go_on, name=self.op.scoped("still"))
                index = (trip if last is None else last) if adapter else None
                result = self.round(loop, entry, index, state, slots)
            body = ir.Graph(
                [trip, go_on, state], [still, result], nodes=nodes, name=self.op.scoped("body")
            )
            return self.op.Loop(
                self.rounds[loop.name], None, x, body=body, shape=shape, dtype=FLOAT
            )


def _sites(graph: BlockGraph) -> Counter[str]:
    """How often each block is written out, a loop's body counting once."""
    found: Counter[str] = Counter()
    for step in graph.steps():
        found.update([step.block] if isinstance(step, Visit) else _sites(step.body))
    return found


def _checked_rounds(op: OpBuilder, rounds: ir.Value) -> ir.Value:
    complaint = f"{rounds.name} must be from 1 to {MAX_ROUNDS}"
    with op.scope("checks"), op.scope(str(rounds.name)):
        return guarded(op, rounds, rounds, MAX_ROUNDS, complaint)


def _checked_length(op: OpBuilder, given: ir.Value, context: int) -> ir.Value:
    with op.scope("checks"), op.scope("seq"):
        seq = op.Shape(given, start=1, end=2, shape=(1,), dtype=INT64)
        return guarded(op, given, seq, context, f"seq must be from 1 to {context}")


def _label(node: Node, labels: dict[Value, str]) -> str:
    """The node's name; where it has none, its operation's after the one input that has a name."""
    kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(node.op).__name__).lower()
    sources = {labels[value] for value in node.inputs if labels.get(value)}
    source = sources.pop() if len(sources) == 1 else ""
    labels[node.output] = node.name or (source if len(node.inputs) == 1 else "")
    return node.name or "_".join(filter(None, (source, kind)))
