"""Block graph to the source of a PyTorch module: one class a layer kind, one `Model`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from torch import nn

from rinsc.backends.torch.helpers import HELPERS
from rinsc.backends.torch.initialise import WIDEST, reset_lines
from rinsc.backends.torch.ops import TORCH_OPS
from rinsc.backends.torch.statements import indented, shape_text, statements, with_shape
from rinsc.errors import LoweringError, Problem
from rinsc.graph import BlockGraph, Visit
from rinsc.graph.rounds import MAX_ROUNDS
from rinsc.layers import Programs, trace_programs
from rinsc.program import Node, Program

LONGEST_TITLE = 40  # characters of a signature in the first line of a file

_HEADER = '''"""{title}"""

from __future__ import annotations

{stdlib}
import torch
import torch.nn.functional as F
from torch import nn
'''

_BLOCK = '''
class Block(nn.ModuleList):
    """Layers run one after the other; every visit uses the same weights."""

    def __init__(self, layers: int) -> None:
        super().__init__({layer}() for _ in range(layers))

    def forward({parameters}) -> torch.Tensor:
        for layer in self:
            x = layer({arguments})
        return x
'''

_ROUNDS = '''Rounds: TypeAlias = int | Mapping[str, int] | None
# Of each repeat, as written, and at most.
ROUNDS = {rounds}
MAX_ROUNDS = {most}


def resolve_rounds(rounds: Rounds) -> Mapping[str, int]:
    """Rounds of each repeat: those written, one number for all of them, or by name."""
    if rounds is None:
        return ROUNDS
    asked = {{**ROUNDS, **rounds}} if isinstance(rounds, Mapping) else dict.fromkeys(ROUNDS, rounds)
    whole = all(type(count) is int and 1 <= count <= MAX_ROUNDS for count in asked.values())
    if asked.keys() != ROUNDS.keys() or not whole:
        raise ValueError(f"rounds {{rounds!r}} do not fit the repeats {{list(ROUNDS)}}")
    return asked
'''


def emit_source(graph: BlockGraph) -> str:
    """One file that imports torch alone and defines `Model`, for a graph rolled or unrolled."""
    programs = trace_programs(graph.spec)
    _check_names(graph, programs)
    rounds = {loop.name: loop.rounds for loop in graph.loops()}
    chunks = [_header(graph, rounds)]
    if rounds:
        chunks.append(_ROUNDS.format(rounds=_rounds_text(rounds), most=MAX_ROUNDS))
    chunks += [HELPERS[name] for name in _helpers(programs)]
    for kind, program in programs.layer.items():
        chunks += [_layer_class(kind, program), _block_class(kind, program)]
    chunks.append(_model_class(graph, programs))
    return "\n".join(chunks)


def _check_names(graph: BlockGraph, programs: Programs) -> None:
    """Blocks and operations become attributes of modules: each needs a name that is still free."""
    frame = [node.name for program in (programs.embed, programs.head) for node in program.nodes]
    layers = [node.name for program in programs.layer.values() for node in program.nodes]
    top = Counter([*graph.blocks, *filter(None, frame)])
    taken = [name for name, count in top.items() if count > 1]
    taken += [name for name in (*top, *filter(None, layers)) if hasattr(nn.Module, name)]
    if taken:
        message = f"two parts of the module would be called '{taken[0]}'"
        hint = "rename the operation in its layer kind"
        raise LoweringError(Problem("name-taken", message, hint=hint))


def _header(graph: BlockGraph, rounds: dict[str, int]) -> str:
    blocks, visits = len(graph.blocks), sum(graph.visit_counts().values())
    text = graph.spec.text
    name = text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 1]}…"
    counted = f"{blocks} block{'s' * (blocks > 1)}, {visits} visit{'s' * (visits > 1)}"
    title = f"{name}: {counted} at the rounds written."
    stdlib = "import math\n"
    if rounds:
        stdlib += "from collections.abc import Mapping\nfrom typing import TypeAlias\n"
    return _HEADER.format(title=title, stdlib=stdlib)


def _rounds_text(rounds: dict[str, int]) -> str:
    items = [f'"{name}": {count}' for name, count in rounds.items()]
    line = f"{{{', '.join(items)}}}"
    return line if len(line) <= WIDEST else "{\n" + "".join(f"    {i},\n" for i in items) + "}"


def _helpers(programs: Programs) -> list[str]:
    called = {
        name
        for program in programs.every
        for node in program.nodes
        for name in TORCH_OPS[type(node.op)].helpers
    }
    return [name for name in HELPERS if name in called]


def _class_name(kind: str) -> str:
    return f"{kind.title().replace('_', '')}Layer"


def _own_lines(nodes: Iterable[Node]) -> Iterator[str]:
    """The lines of ``__init__`` that make what the operations own."""
    for node in nodes:
        module = TORCH_OPS[type(node.op)].module
        if module is not None:
            yield module(node)


def _layer_class(kind: str, program: Program) -> str:
    lines, results = statements(program, {name: name for name in program.inputs})
    docs = ", ".join(f"{name} {shape_text(value)}" for name, value in program.inputs.items())
    body = [
        '"""One layer: state to state."""',
        "",
        "def __init__(self) -> None:",
        *indented(["super().__init__()", *_own_lines(program.nodes)]),
        "",
        f"def forward({_parameters(program)}) -> torch.Tensor:",
        *indented([f"# {docs}", *lines, f"return {results['x']}"]),
    ]
    return f"\nclass {_class_name(kind)}(nn.Module):\n" + "\n".join(indented(body)) + "\n"


def _block_class(kind: str, program: Program) -> str:
    return _BLOCK.format(
        layer=_class_name(kind),
        parameters=_parameters(program),
        arguments=", ".join(program.inputs),
    )


def _parameters(program: Program) -> str:
    return ", ".join(("self", *(f"{name}: torch.Tensor" for name in program.inputs)))


def _model_class(graph: BlockGraph, programs: Programs) -> str:
    init = ["super().__init__()", *_own_lines(programs.embed.nodes)]
    init += [f"self.{block.name} = Block({block.layers})" for block in graph.blocks.values()]
    init += [*_own_lines(programs.head.nodes), "self.reset_parameters()"]
    body = [
        f'"""Token ids (batch, seq ≤ {graph.spec.context}) to logits (batch, seq, '
        f'{graph.spec.vocab_size})."""',
        "",
        "def __init__(self) -> None:",
        *indented(init),
        "",
        *reset_lines(graph, programs),
        "",
        *_forward_lines(graph, programs),
    ]
    return "\nclass Model(nn.Module):\n" + "\n".join(indented(body)) + "\n"


def _forward_lines(graph: BlockGraph, programs: Programs) -> list[str]:
    looped = any(graph.loops())
    kind = "Rounds" if looped else "int | None"
    lines, made = statements(programs.embed, {"input_ids": "input_ids"})
    outputs = programs.embed.outputs
    for name, text in made.items():
        lines += with_shape(f"{name} = {text}", outputs[name]) if name != text else []
    arguments = ", ".join(outputs)
    head, results = statements(programs.head, {"x": "x"})
    context = graph.spec.context
    return [
        f"def forward(self, input_ids: torch.Tensor, rounds: {kind} = None) -> torch.Tensor:",
        *indented(
            [
                f"if input_ids.shape[1] > {context}:",
                f'    raise ValueError(f"{{input_ids.shape[1]}} tokens exceed the context of '
                f'{context}")',
                *_rounds_lines(looped),
                *lines,
                *_step_lines(graph, arguments),
                *head,
                *with_shape(f"return {results['logits']}", programs.head.outputs["logits"]),
            ]
        ),
    ]


def _rounds_lines(looped: bool) -> list[str]:
    if looped:
        return ["counts = resolve_rounds(rounds)"]
    return [
        "if rounds not in (None, 1):",
        '    raise ValueError(f"rounds {rounds!r} were asked of a model without a repeat")',
    ]


def _step_lines(graph: BlockGraph, arguments: str) -> Iterator[str]:
    for step in graph.steps():
        if isinstance(step, Visit):
            yield f"x = self.{step.block}({arguments})"
        else:
            yield f'for _ in range(counts["{step.name}"]):'
            yield from indented(_step_lines(step.body, arguments))
