"""The method of an emitted model that gives every parameter its first value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rinsc.backends.torch.statements import indented
from rinsc.errors import LoweringError, Problem
from rinsc.graph import BlockGraph
from rinsc.layers import Programs, layer_kind, weights
from rinsc.ops import Init, Param

WIDEST = 92  # columns of a statement in a method, so that a file keeps to 100


def reset_lines(graph: BlockGraph, programs: Programs) -> list[str]:
    """Every parameter as its operation wants it; residual ones smaller with the depth executed."""
    writes = _residual_writes(graph, programs)
    std = layer_kind(graph.spec.kind).init_std
    keys = _keys_by_init(graph, programs)
    cases: list[tuple[Init, str]] = [
        ("residual", f"nn.init.normal_(parameter, std={std!r} / math.sqrt({writes}))"),
        ("ones", "nn.init.ones_(parameter)"),
        ("zeros", "nn.init.zeros_(parameter)"),
        ("identity", "nn.init.eye_(parameter)"),
        ("sum", "parameter.copy_(torch.eye(len(parameter)).repeat(1, 2))"),  # [I I]
    ]
    held = [(init, line) for init, line in cases if keys.get(init)]
    lines = [line for init, _ in held for line in _set_lines(_variable(init), keys[init])]
    lines += ["for path, parameter in self.named_parameters():"]
    owned = 'path if path.startswith("loop_") else ' if any(_owned(graph)) else ""
    lines += [f'    name = {owned}".".join(path.split(".")[-2:])']
    for index, (init, line) in enumerate(held):
        lines += [f"    {'el' if index else ''}if name in {_variable(init)}:", f"        {line}"]
    lines += ["    else:", f"        nn.init.normal_(parameter, std={std!r})"]
    return [
        "@torch.no_grad()",
        "def reset_parameters(self) -> None:",
        f'    """Normal weights; residual ones scaled for {writes} additions to the state."""',
        *indented(lines),
    ]


def _owned(graph: BlockGraph) -> Iterator[tuple[str, Param]]:
    """The weights of repeats."""
    return ((name, param) for name, param in weights(graph) if name.startswith("loop_"))


def _keys_by_init(graph: BlockGraph, programs: Programs) -> dict[Init, list[str]]:
    """Names to know parameters by: whole for those of repeats, else without where they stand.

    Raises `LoweringError` where two kinds start weights of one name differently.
    """
    found: dict[str, Init] = {}
    own = ((param.name, param) for program in programs.every for param in program.params)
    for key, param in (*own, *_owned(graph)):
        if found.setdefault(key, param.init) != param.init:
            message = f"two layer kinds start the weight '{key}' differently"
            hint = "rename the operation in one of the kinds"
            raise LoweringError(Problem("name-taken", message, hint=hint))
    keys: dict[Init, list[str]] = {}
    for key, init in found.items():
        keys.setdefault(init, []).append(key)
    return keys


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


def _variable(init: Init) -> str:
    """The name of a set of names: that of the start, unless Python has the word."""
    return f"{init}s" if init == "sum" else init


def _set_lines(variable: str, names: list[str]) -> list[str]:
    """A set of names on one line, or one name a line where that is too long."""
    line = f"{variable} = {{{', '.join(_quoted(names))}}}"
    if len(line) <= WIDEST:
        return [line]
    return [f"{variable} = {{", *(f"    {name}," for name in _quoted(names)), "}"]


def _quoted(names: Iterable[str]) -> list[str]:
    return [f'"{name}"' for name in names]
