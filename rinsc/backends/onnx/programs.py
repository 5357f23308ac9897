"""A program's operations as ONNX nodes, one lowering each."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

import onnx_ir as ir

from rinsc.backends.onnx.builder import OpBuilder
from rinsc.backends.onnx.fused_ops import FUSED_OPS, FusedSite
from rinsc.backends.onnx.fusion import Fused, FusedProgram
from rinsc.backends.onnx.ops import ONNX_OPS
from rinsc.backends.onnx.packing import Packing
from rinsc.backends.onnx.site import Site
from rinsc.program import Node, Program, Value


def emit_program(
    op: OpBuilder,
    program: Program | FusedProgram,
    given: Mapping[str, ir.Value],
    prefix: Callable[[Node], str] = lambda node: "",
    packing: Packing | None = None,
) -> dict[str, ir.Value]:
    """The program's outputs; ``prefix`` says where an operation's weights stand: ``A.0.``.

    Fused attention reads the lengths of its rows off ``packing``.
    """
    values = {value: given[name] for name, value in program.inputs.items()}
    labels: dict[Value, str] = {}
    for node in program.nodes:
        inputs = [None if value is None else values[value] for value in node.inputs]
        if isinstance(node, Fused):
            name = node.name or type(node.op).__name__.lower()
            labels[node.outputs[0]] = name
            with op.scope(node.part), op.scope(name):
                made = FUSED_OPS[type(node.op)](op, FusedSite(node, prefix, packing), inputs)
            values.update(zip(node.outputs, made, strict=True))
        else:
            label = _label(node, labels)
            with op.scope(node.part), op.scope(label):
                present = [value for value in inputs if value is not None]
                site = Site(node, prefix(node))
                values[node.output] = ONNX_OPS[type(node.op)](op, site, present)
    return {name: values[value] for name, value in program.outputs.items()}


def _label(node: Node, labels: dict[Value, str]) -> str:
    """The node's name; where it has none, its operation's after the one input that has a name."""
    kind = re.sub("(?<=[a-z])(?=[A-Z])", "_", type(node.op).__name__).lower()
    sources = {labels[value] for value in node.inputs if labels.get(value)}
    source = sources.pop() if len(sources) == 1 else ""
    labels[node.output] = node.name or (source if len(node.inputs) == 1 else "")
    return node.name or "_".join(filter(None, (source, kind)))
