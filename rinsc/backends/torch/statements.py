r"""A program as lines of Python: which results get a variable, and what the variable is called.

In goes a program, out come statements. A result that is read once is written where it is
read. One that is read twice, as ``h`` here, gets a variable:

    >>> from rinsc.ops import Activation, Add, Mul, RMSNorm
    >>> from rinsc.ops.program import trace
    >>> def layer(b, given):
    ...     h = b(RMSNorm(1e-5), given["x"], name="norm")
    ...     gate = b(Activation("silu"), b(Linear(8), h, name="gate"))
    ...     h = b(Mul(), gate, b(Linear(8), h, name="up"))
    ...     return {"x": b(Add(), given["x"], b(Linear(4), h, name="down"))}
    >>> program = trace({"x": ("batch", "seq", 4)}, layer)
    >>> lines, results = statements(program, {"x": "x"})
    >>> print("\n".join(lines))
    h = self.norm(x)  # (batch, seq, 4)
    >>> print(results["x"])
    x + self.down(F.silu(self.gate(h)) * self.up(h))
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from textwrap import indent

from rinsc.backends.torch.ops import TORCH_OPS
from rinsc.ops import Linear
from rinsc.ops.program import Node, Program, Value

LINE = 84  # longer statements are cut in two, and comments go above them
WIDEST = 96  # columns of a line in a class, so that a file keeps to 100
INDENT = "    "


@dataclass
class _Writer:
    """A result used once is written where it is used, as long as the line stays short."""

    uses: Counter[Value]
    lines: list[str] = field(default_factory=list)
    text: dict[Value, str] = field(default_factory=dict)  # a variable, or a pending expression
    hint: dict[Value, str] = field(default_factory=dict)
    pending: dict[Value, str] = field(default_factory=dict)
    names: dict[str, Value] = field(default_factory=dict)
    reserved: frozenset[str] = frozenset()  # variables that hold something else
    loose: set[Value] = field(default_factory=set)

    def bind(self, value: Value, name: str) -> None:
        self.text[value] = self.hint[value] = name
        self.names[name] = value

    def assign(self, value: Value) -> None:
        """Give a pending expression a variable; a name is free once its value is used up."""
        expression = self.pending.pop(value)
        name, number = self.hint[value], 2
        while self._is_taken(name):
            name, number = f"{self.hint[value]}_{number}", number + 1
        self.lines += with_shape(f"{name} = {expression}", value)
        self.bind(value, name)

    def _is_taken(self, name: str) -> bool:
        """Whether something that is still to be read stands in the variable."""
        if name in self.reserved or (name in self.names and self.uses[self.names[name]] > 0):
            return True
        whole_word = re.compile(rf"\b{re.escape(name)}\b")
        return any(whole_word.search(expression) for expression in self.pending.values())

    def write(self, node: Node) -> None:
        torch_op = TORCH_OPS[type(node.op)]
        held = [value for value in node.inputs if value in self.pending]
        while len(self._call(node)) > LINE and held:
            self.assign(held.pop(0))
        expression = self._call(node)
        for value in node.inputs:
            self.uses[value] -= 1
            self.pending.pop(value, None)
        result = torch_op.result or self.hint[node.inputs[0]]
        own = node.name.rpartition(".")[2] if isinstance(node.op, Linear) else ""
        self.hint[node.output] = own or result
        self.text[node.output] = self.pending[node.output] = expression
        if torch_op.loose:
            self.loose.add(node.output)
        if self.uses[node.output] != 1:
            self.assign(node.output)

    def _call(self, node: Node) -> str:
        torch_op = TORCH_OPS[type(node.op)]
        args = [self.text[value] for value in node.inputs]
        if torch_op.tight:
            args = [
                f"({text})" if value in self.loose and value in self.pending else text
                for value, text in zip(node.inputs, args, strict=True)
            ]
        return torch_op.call(node, args)


def statements(
    program: Program, names: dict[str, str], reserved: Iterable[str] = ()
) -> tuple[list[str], dict[str, str]]:
    """Lines that run the program, and the expression of each of its outputs.

    ``names`` gives the variables that hold the program's inputs; ``reserved`` are not touched.
    """
    uses = Counter(value for node in program.nodes for value in node.inputs)
    uses.update(program.outputs.values())
    writer = _Writer(uses, reserved=frozenset(reserved))
    for name, value in program.inputs.items():
        writer.bind(value, names[name])
    for node in program.nodes:
        writer.write(node)
    return writer.lines, {name: writer.text[value] for name, value in program.outputs.items()}


def definition(name: str, parameters: Iterable[str], result: str) -> list[str]:
    """The first lines of a method, which are cut where they are too long."""
    arguments = ["self", *parameters]
    line = f"def {name}({', '.join(arguments)}) -> {result}:"
    if len(line) <= WIDEST:
        return [line]
    if len(", ".join(arguments)) <= WIDEST - len(INDENT):
        return [f"def {name}(", INDENT + ", ".join(arguments), f") -> {result}:"]
    return [f"def {name}(", *(f"{INDENT}{argument}," for argument in arguments), f") -> {result}:"]


def call(start: str, arguments: Iterable[str], indent: int = 1) -> list[str]:
    """A call so many levels deep in a method, which is cut where it is too long."""
    inner = ", ".join(arguments)
    line = f"{start}({inner})"
    fits = indent * len(INDENT) + len(line) <= WIDEST
    return [line] if fits else [f"{start}(", INDENT + inner, ")"]


def with_shape(line: str, value: Value) -> list[str]:
    """The line with its result's shape behind it, or above it where the line is long."""
    comment = f"# {shape_text(value)}"
    return [f"{line}  {comment}"] if len(line) + len(comment) < LINE else [comment, line]


def within_width(lines: Iterable[str]) -> Iterator[str]:
    """Lines of a method's body; a shape goes above the line that loops have made too long."""
    for line in lines:
        statement, mark, shape = line.partition("  # ")
        if mark and len(INDENT) + len(line) > WIDEST:
            yield f"{line[: len(line) - len(line.lstrip())]}# {shape}"
            yield statement
        else:
            yield line


def shape_text(value: Value) -> str:
    """``(batch, seq, 256)``."""
    return f"({', '.join(map(str, value.shape))})"


def indented(lines: Iterable[str]) -> list[str]:
    """The lines, one level deeper."""
    return [indent(line, INDENT) for line in lines]
