"""A sum and the norm of it as one operator of ONNX Runtime, within a visit.

Not across visits: there the forms differ in what stands beside what, and they are to agree to the
bit.
"""

from __future__ import annotations

import onnx_ir as ir

from rinsc.backends.onnx.builder import VISIT, shape_of
from rinsc.backends.onnx.operators import RUNTIME

KINDS = {
    "RMSNormalization": "SkipSimplifiedLayerNormalization",
    "LayerNormalization": "SkipLayerNormalization",
}


def fuse_skip_norms(graph: ir.Graph) -> None:
    """Rewrite the graph, and the bodies in it, where the sum and its norm stand in one of them."""
    for node in list(graph):
        for attribute in node.attributes.values():
            if attribute.type == ir.AttributeType.GRAPH:
                fuse_skip_norms(attribute.as_graph())
        if node.op_type in KINDS:
            _fuse(graph, node)


def _fuse(graph: ir.Graph, norm: ir.Node) -> None:
    x, *weights = norm.inputs
    total = None if x is None else x.producer()
    if total is None or total.op_type != "Add" or total.graph is not graph:
        return
    if norm.meta[VISIT] != total.meta[VISIT] or not norm.meta[VISIT]:
        return
    first, second = total.inputs
    if first is None or second is None or shape_of(first) != shape_of(second):
        return
    if len(shape_of(first)) != 3:  # the operator's rank
        return
    (normed,), (summed,) = norm.outputs, total.outputs
    outputs = [
        ir.Value(name=value.name, shape=value.shape, type=value.type)
        if value is not None
        else ir.Value(name="")
        for value in (normed, None, None, summed)
    ]
    fused = ir.node(
        KINDS[norm.op_type],
        [first, second, *weights],
        {"epsilon": norm.attributes["epsilon"].as_float()},
        domain=RUNTIME,
        outputs=outputs,
        name=norm.name,
    )
    graph.insert_before(total, fused)
    for old, new in ((normed, outputs[0]), (summed, outputs[3])):
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    graph.remove([norm, total], safe=True)
