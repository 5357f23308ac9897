"""Block graph to ONNX graph: programs, visits and loops, the same for every form."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir

from rinsc.backends.onnx.builder import BOOL, FLOAT, INT64, OpBuilder, make_value, shape_of
from rinsc.backends.onnx.guards import guarded
from rinsc.backends.onnx.ops import ONNX_OPS, Site
from rinsc.backends.onnx.weights import Weights
from rinsc.graph import Block, BlockGraph, Loop, Visit
from rinsc.graph.rounds import MAX_ROUNDS
from rinsc.layers import layer_prefixes, trace_programs
from rinsc.program import Node, Program, Value

OPSET = 23
TOKENS = ("batch", "seq")


def emit_graph(graph: BlockGraph, weights: Weights) -> ir.Graph:
    """The ONNX graph of a block graph; each of its loops becomes a ``Loop``.

    Inputs: ``input_ids`` (batch, seq) and, for every loop, ``rounds_<name>``, a number; all
    int64. Output: ``logits`` (batch, seq, vocab_size). Every weight is stored once.
    """
    op = OpBuilder(weights)
    input_ids = make_value("input_ids", TOKENS, INT64)
    inputs = {loop.name: make_value(f"rounds_{loop.name}", (), INT64) for loop in graph.loops()}
    programs = trace_programs(graph.spec)
    rounds = {name: _checked_rounds(op, value) for name, value in inputs.items()}
    given = {"input_ids": _checked_ids(op, input_ids, graph.spec.context)}
    made = emit_program(op, programs.embed, given)
    walk = _Walk(op, programs.layer, _sites(graph), rounds, made)
    x = walk.steps(graph, made["x"])
    logits = emit_program(op, programs.head, {"x": x})["logits"]
    logits.name = "logits"
    return ir.Graph(
        [input_ids, *inputs.values()],
        [logits],
        nodes=op.nodes,
        initializers=list(op.initializers.values()),
        opset_imports={"": OPSET},
        name="model",
    )


def emit_program(
    op: OpBuilder, program: Program, given: Mapping[str, ir.Value], prefix: str = ""
) -> dict[str, ir.Value]:
    """The program's outputs; ``prefix`` is where its weights stand, such as ``A.0.``."""
    values = {value: given[name] for name, value in program.inputs.items()}
    labels: dict[Value, str] = {}
    for node in program.nodes:
        label = _label(node, labels)
        with op.scope(node.part), op.scope(label):
            inputs = [values[value] for value in node.inputs]
            values[node.output] = ONNX_OPS[type(node.op)](op, Site(node, prefix), inputs)
    return {name: values[value] for name, value in program.outputs.items()}


@dataclass
class _Walk:
    """The steps of a graph, one after the other, with what all of them share."""

    op: OpBuilder
    layer_programs: Mapping[str, Program]
    sites: Counter[str]
    rounds: Mapping[str, ir.Value]
    sides: Mapping[str, ir.Value]
    visits: int = field(default=0)

    def steps(self, graph: BlockGraph, x: ir.Value) -> ir.Value:
        for step in graph.steps():
            if isinstance(step, Visit):
                x = self.visit(graph.blocks[step.block], x)
            else:
                x = self.loop(step, x)
        return x

    def visit(self, block: Block, x: ir.Value) -> ir.Value:
        """A block's layers in order; its visits are told apart where there are several."""
        self.visits += 1
        with self.op.scope(f"visit_{self.visits}" if self.sites[block.name] > 1 else ""):
            for prefix in layer_prefixes(block.name, block.layers):
                with self.op.scope(prefix):
                    program = self.layer_programs[block.kind]
                    made = emit_program(self.op, program, {**self.sides, "x": x}, f"{prefix}.")
                x = made["x"]
        return x

    def loop(self, loop: Loop, x: ir.Value) -> ir.Value:
        """One ``Loop``; its body reads weights and side values from the graph around it."""
        with self.op.scope(f"loop_{loop.name}"):
            shape = shape_of(x)
            trip = make_value(self.op.scoped("round"), (), INT64)
            go_on = make_value(self.op.scoped("go_on"), (), BOOL)
            state = make_value(self.op.scoped("x"), shape, FLOAT)
            with self.op.body() as nodes:
                still = self.op.Identity(go_on, name=self.op.scoped("still"))
                result = self.steps(loop.body, state)
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


def _checked_ids(op: OpBuilder, input_ids: ir.Value, context: int) -> ir.Value:
    with op.scope("checks"), op.scope("seq"):
        seq = op.Shape(input_ids, start=1, end=2, shape=(1,))
        return guarded(op, input_ids, seq, context, f"seq must be from 1 to {context}")


def _label(node: Node, labels: dict[Value, str]) -> str:
    """The node's name; where it has none, its operation's after the one input that has a name."""
    kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(node.op).__name__).lower()
    sources = {labels[value] for value in node.inputs if labels.get(value)}
    source = sources.pop() if len(sources) == 1 else ""
    labels[node.output] = node.name or (source if len(node.inputs) == 1 else "")
    return node.name or "_".join(filter(None, (source, kind)))
