"""The method of an emitted model that gives every parameter its first value."""

from __future__ import annotations

from collections.abc import Iterable

from rinsc.backends.torch.statements import indented
from rinsc.graph import BlockGraph
from rinsc.layers import Programs, layer_kind

WIDEST = 92  # columns of a statement in a method, so that a file keeps to 100


def reset_lines(graph: BlockGraph, programs: Programs) -> list[str]:
    """Every parameter as its operation wants it; residual ones smaller with the depth executed."""
    params = [param for program in programs.every for param in program.params]
    writes = _residual_writes(graph, programs)
    std = layer_kind(graph.spec.kind).init_std

    def names(init: str) -> list[str]:
        return list(dict.fromkeys(param.name for param in params if param.init == init))

    cases = [
        ("residual", f"nn.init.normal_(parameter, std={std!r} / math.sqrt({writes}))"),
        ("ones", "nn.init.ones_(parameter)"),
        ("zeros", "nn.init.zeros_(parameter)"),
    ]
    held = [(init, line) for init, line in cases if names(init)]
    lines = [line for init, _ in held for line in _set_lines(init, names(init))]
    lines += ["for path, parameter in self.named_parameters():"]
    lines += ['    name = ".".join(path.split(".")[-2:])']
    for index, (init, line) in enumerate(held):
        lines += [f"    {'el' if index else ''}if name in {init}:", f"        {line}"]
    lines += ["    else:", f"        nn.init.normal_(parameter, std={std!r})"]
    return [
        "@torch.no_grad()",
        "def reset_parameters(self) -> None:",
        f'    """Normal weights; residual ones scaled for {writes} additions to the state."""',
        *indented(lines),
    ]


def _residual_writes(graph: BlockGraph, programs: Programs) -> int:
    """How often a forward pass adds to the state: they share the variance of the sum."""
    per_layer = {
        kind: sum(param.init == "residual" for param in program.params)
        for kind, program in programs.layer.items()
    }
    return sum(
        visits * graph.blocks[name].layers * per_layer[graph.blocks[name].kind]
        for name, visits in graph.visit_counts().items()
    )


def _set_lines(variable: str, names: list[str]) -> list[str]:
    """A set of names on one line, or one name a line where that is too long."""
    line = f"{variable} = {{{', '.join(_quoted(names))}}}"
    if len(line) <= WIDEST:
        return [line]
    return [f"{variable} = {{", *(f"    {name}," for name in _quoted(names)), "}"]


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in names]
