"""The edges of a graph are read once, however many steps it has: work is counted, not timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from rinsc import cost_report, model_spec, to_onnx, to_torch
from rinsc.backends.torch.emit import emit_source
from rinsc.cost import block_params
from rinsc.graph import BlockGraph, build_graph
from rinsc.graph.draw import to_dot, to_mermaid
from rinsc.graph.nodes import Wired

USES: dict[str, Callable[[BlockGraph], object]] = {
    "torch": emit_source,
    "onnx": lambda graph: to_onnx(to_torch(graph)),
    "cost": lambda graph: cost_report(graph.spec),
    "mermaid": lambda graph: to_mermaid(graph, block_params(graph)),
    "dot": lambda graph: to_dot(graph, block_params(graph)),
}


@pytest.mark.parametrize("use", USES)
def test_as_often_for_a_long_graph_as_for_a_short_one(
    use: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wired, calls = BlockGraph.wired, 0

    def counted(graph: BlockGraph) -> Iterator[Wired]:
        nonlocal calls
        calls += 1
        return wired(graph)

    monkeypatch.setattr(BlockGraph, "wired", counted)
    counts = []
    for length in (4, 16):
        graph = build_graph(model_spec("A^2{inject=add}" + "BC" * length, preset="tiny", layers=3))
        calls = 0
        USES[use](graph)
        counts.append(calls)
    assert counts[0] == counts[1]
