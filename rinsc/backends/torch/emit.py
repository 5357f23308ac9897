r"""Block graph to the source of a PyTorch module: classes of layers and blocks, one `Model`.

In goes a graph, out comes one file. A kind of layers is a class, a block a list of its layers:

    >>> import rinsc
    >>> graph = rinsc.build_graph(rinsc.model_spec("(A^3)B", preset="tiny"))
    >>> lines = emit_source(graph).splitlines()
    >>> print("\n".join(line for line in lines if line.startswith(("class", "ROUNDS", "def "))))
    def whole(value: object) -> int | None:
    ROUNDS = {"A": 3}
    def resolve_rounds(rounds: Rounds) -> Mapping[str, int]:
    def rotary_angles(context: int, head_dim: int, theta: float) -> torch.Tensor:
    def rotary_table(function: str, context: int, head_dim: int, theta: float) -> torch.Tensor:
    def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    class LlamaLayer(nn.Module):
    class LlamaBlock(nn.ModuleList):
    class Model(nn.Module):
    >>> print("\n".join(line for line in lines if line.strip().startswith(("self.A", "self.B"))))
            self.A = LlamaBlock(6)
            self.B = LlamaBlock(6)

Its ``forward`` ends with the loop that `steps` writes and the head:

    >>> print("\n".join(lines[-4:]))
            for _ in range(counts["A"]):
                x = self.A(x, cos, sin)
            x = self.B(x, cos, sin)
            return F.linear(self.final_norm(x), self.embedding.weight)  # (batch, seq, 512)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from inspect import getsource

from torch import nn

from rinsc.backends.torch.blocks import (
    WIDEST,
    BlockClass,
    block_classes,
    class_sources,
    own_lines,
)
from rinsc.backends.torch.drawing import (
    drawing_imports,
    drawing_lines,
    drawing_source,
    draws_in_training,
)
from rinsc.backends.torch.helpers import HELPERS
from rinsc.backends.torch.methods import (
    CHECKPOINTING,
    cached_forward,
    embed_lines,
    hosted_methods,
    keeps_losses,
    kept_loss_lines,
    loss_lines,
    recomputing_lines,
    reset_lines,
    rounds_lines,
)
from rinsc.backends.torch.ops import TORCH_OPS
from rinsc.backends.torch.statements import (
    definition,
    indented,
    shape_text,
    statements,
    with_shape,
    within_width,
)
from rinsc.backends.torch.steps import StepWriter, loop_modules, loop_programs, takes_noise_seed
from rinsc.errors import LoweringError
from rinsc.graph import BlockGraph, Visit, verified
from rinsc.graph.rounds import MAX_ROUNDS, MAX_RUN_VISITS
from rinsc.layers import ModelInput, Programs, trace_programs
from rinsc.layers.cached import cached_programs, hosted_programs
from rinsc.layers.weight_names import LAYERS, TIED
from rinsc.scalars import whole

LONGEST_TITLE = 40  # characters of a signature in the first line of a file
TAKES = {"input_ids": "tokens", "patches": "patches", "pixel_values": "pixels"}

_HEADER = '''"""{title}"""

from __future__ import annotations

{stdlib}
import torch
import torch.nn.functional as F
from torch import nn
'''

_ROUNDS = '''
Rounds: TypeAlias = int | Mapping[str, int] | None
# Of each repeat, as written, and at most.
ROUNDS = {rounds}
MAX_ROUNDS = {most}


def resolve_rounds(rounds: Rounds) -> Mapping[str, int]:
    """Rounds of each repeat: those written, one number for all of them, or by name."""
    if rounds is None:
        return ROUNDS
    given = {{**ROUNDS, **rounds}} if isinstance(rounds, Mapping) else dict.fromkeys(ROUNDS, rounds)
    asked = {{name: whole(count) or 0 for name, count in given.items()}}
    fits = all(1 <= count <= MAX_ROUNDS for count in asked.values())
    if asked.keys() != ROUNDS.keys() or not fits:
        fit = f"do not fit the repeats {{list(ROUNDS)}}, from 1 to {{MAX_ROUNDS}} each"
        raise ValueError(f"rounds {{rounds!r}} {{fit}}")
{bound}    return asked
'''

_BOUND = """    visits = {visits}
    if visits > {most}:
        raise ValueError(f"rounds {{rounds!r}} make {{visits}} visits of blocks, more than {most}")
"""


def emit_source(
    graph: BlockGraph,
    *,
    cached: bool = False,
    hosted: bool = False,
    recomputing: bool = False,
    relatives: Iterable[BlockGraph] = (),
) -> str:
    """One file that imports torch alone and defines `Model`, for a graph rolled or unrolled.

    Other forms have the same weights: a ``cached`` model continues sequences (`cached_forward`),
    a ``hosted`` one is given positions, mask and cache by its caller (`hosted_forward`). It can
    make activations again in the backward pass, and so can a plain one that is ``recomputing``.
    ``relatives`` are all towers of a model, where it is one: their classes are alike.
    """
    programs, recomputing = _programs(verified(graph), cached, hosted), recomputing or hosted
    _check_names(graph, programs)
    rounds = {loop.name: loop.rounds for loop in graph.dials()}
    classes = block_classes(graph, programs, cached=cached, hosted=hosted, relatives=relatives)
    needs_any = recomputing or keeps_losses(programs)
    chunks = [
        _header(graph, rounds, cached, hosted, recomputing, needs_any),
        f"\n{getsource(whole)}",
    ]
    if rounds:
        text = _rounds_text(rounds)
        chunks.append(_ROUNDS.format(rounds=text, most=MAX_ROUNDS, bound=_bound(graph)))
    chunks += [HELPERS[name] for name in _helpers(graph, programs, hosted, recomputing)]
    chunks += drawing_source(graph)
    chunks += class_sources(classes.values())
    if hosted or cached:
        methods = (hosted_methods if hosted else cached_forward)(graph, programs, classes)
    else:
        methods = _forward_lines(graph, programs, classes, recomputing)
    chunks.append(_model_class(graph, programs, classes, methods, hosted))
    return "\n".join(chunks)


def _programs(graph: BlockGraph, cached: bool, hosted: bool) -> Programs:
    if hosted:
        return hosted_programs(graph.spec)
    return cached_programs(graph.spec) if cached else trace_programs(graph.spec).trained


def _bound(graph: BlockGraph) -> str:
    """The check of what nested repeats multiply to; rounds of one repeat are few enough."""
    if not any(any(loop.body.dials()) for loop in graph.loops()):
        return ""
    return _BOUND.format(visits=_visits_text(graph), most=MAX_RUN_VISITS)


def _visits_text(graph: BlockGraph) -> str:
    """How many visits of blocks there are, as an expression of the rounds asked."""
    fixed, terms = 0, []
    for step in graph.steps():
        if isinstance(step, Visit):
            fixed += step.each
        else:
            rounds = str(step.rounds) if step.fixed else f'asked["{step.name}"]'
            terms.append(f"{rounds} * ({_visits_text(step.body)})")
    return " + ".join([*terms, str(fixed)] if fixed else terms)


def _check_names(graph: BlockGraph, programs: Programs) -> None:
    """Blocks and operations become attributes of modules: each needs a name that is still free."""
    frame = [node.name for program in (programs.embed, programs.head) for node in program.nodes]
    layers = [node.name for program in programs.distinct_layers() for node in program.nodes]
    framed = (*programs.enter.values(), *programs.leave.values())
    ends = [node.name for program in framed for node in program.nodes]
    top = Counter([*graph.blocks, *filter(None, frame)])
    clashes = [name for name, count in top.items() if count > 1]
    clashes += [name for name in (*top, *filter(None, layers)) if hasattr(nn.Module, name)]
    clashes += [name for name in ends if name in (LAYERS, TIED) or hasattr(nn.Module, name)]
    clashes += [name for name in layers if name == TIED]
    if clashes:
        message = f"two parts of the module would be called '{clashes[0]}'"
        hint = "rename the operation in its layer kind"
        raise LoweringError("name-taken", message, hint=hint)


def _header(
    graph: BlockGraph,
    rounds: dict[str, int],
    cached: bool,
    hosted: bool,
    recomputing: bool,
    needs_any: bool,
) -> str:
    blocks, visits = len(graph.blocks), sum(1 for _ in graph.visits())
    text = graph.spec.text
    name = text if len(text) <= LONGEST_TITLE else f"{text[: LONGEST_TITLE - 1]}…"
    counted = f"{blocks} block{'s' * (blocks > 1)}, {visits} visit{'s' * (visits > 1)}"
    title = f"{name}: {counted} at the rounds written."
    imports = {
        "collections.abc": {*["Callable"] * recomputing, *["Iterator"] * (cached or hosted)}
        | {*["Mapping"] * bool(rounds)},
        "itertools": {*["islice"] * (cached and graph.shares_slots)},
        "typing": {*["Any"] * needs_any, *["Protocol"] * hosted, "SupportsIndex"}
        | {*["TypeAlias"] * bool(rounds)},
    }
    for module, drawing in drawing_imports(graph).items():
        imports[module] = imports.get(module, set()) | set(drawing)
    stdlib = "import math\nimport operator\n"
    for module, names in sorted(imports.items()):
        stdlib += f"from {module} import {', '.join(sorted(names))}\n" if names else ""
    header = _HEADER.format(title=title, stdlib=stdlib)
    return header + "from torch.utils.checkpoint import checkpoint\n" * recomputing


def _rounds_text(rounds: dict[str, int]) -> str:
    items = [f'"{name}": {count}' for name, count in rounds.items()]
    line = f"{{{', '.join(items)}}}"
    return line if len(line) <= WIDEST else "{\n" + "".join(f"    {i},\n" for i in items) + "}"


def _helpers(graph: BlockGraph, programs: Programs, hosted: bool, recomputing: bool) -> list[str]:
    called = {
        name
        for program in (*programs.every, *loop_programs(graph))
        for node in program.nodes
        for name in TORCH_OPS[type(node.op)].called(node)
    }
    if any(loop.options.grad is not None for loop in graph.loops()):
        called.add("gradients")
    if hosted:
        called |= {"attend", "record"}
    if recomputing:
        called.add("recomputed")
    if any(param.init == "lecun" for program in programs.every for param in program.params):
        called.add("lecun_normal_")
    return [name for name in HELPERS if name in called]


def _model_class(
    graph: BlockGraph,
    programs: Programs,
    classes: Mapping[str, BlockClass],
    forward: list[str],
    hosted: bool,
) -> str:
    init = ["super().__init__()", *["self.draws = Draws()"] * draws_in_training(graph)]
    init += own_lines(programs.embed.nodes)
    for name, block_class in classes.items():
        init += block_class.construction(f"self.{name} = ")
    init += [*loop_modules(graph), *own_lines(programs.head.nodes), "self.reset_parameters()"]
    takes, (output, result) = programs.input, programs.output
    input_text = {"input_ids": "Token ids", "patches": "Patches", "pixel_values": "Pixels"}
    shape = f"(batch, seq ≤ {graph.spec.context})"
    if not takes.has_positions:
        shape = f"({', '.join(map(str, takes.shape))})"
    body = [
        f'"""{input_text[takes.name]} {shape} to {output} {shape_text(result)}."""',
        "",
        "def __init__(self) -> None:",
        *indented(init),
        "",
        *reset_lines(graph, programs),
        "",
        *_table_lines(programs, hosted),
        *forward,
    ]
    base = "LossKeeper" if keeps_losses(programs) else "nn.Module"
    return f"\nclass Model({base}):\n" + "\n".join(indented(body)) + "\n"


def _table_lines(programs: Programs, hosted: bool) -> list[str]:
    """The method that makes the tables which no file holds."""
    tables = [node for node in programs.embed.nodes if node.op.owns_table]
    if not tables and not hosted:
        return []
    return [
        "def reset_tables(self) -> None:",
        '    """Make the tables that are computed, not trained."""',
        *indented(own_lines(tables)),
        "",
    ]


def _forward_lines(
    graph: BlockGraph,
    programs: Programs,
    classes: Mapping[str, BlockClass],
    recomputing: bool,
) -> list[str]:
    looped = any(graph.dials())
    input_name = programs.input.name
    parameters = [f"{input_name}: torch.Tensor"]
    parameters.append(f"rounds: {'Rounds' if looped else 'int | None'} = None")
    parameters += ["noise_seed: int | None = None"] if takes_noise_seed(graph) else []
    sides = tuple(name for name in programs.embed.outputs if name != "x")
    head, results = statements(programs.head, {"x": "x"})
    output, value = programs.output
    writer = StepWriter(graph, classes, sides, recomputing=recomputing)
    return [
        *(CHECKPOINTING if recomputing else ()),
        *definition("forward", parameters, "torch.Tensor"),
        *indented(
            [
                *_shape_check(programs.input, graph.spec.context),
                *drawing_lines(graph, f"{input_name}.shape[0]"),
                *rounds_lines(looped),
                *loss_lines(programs),
                *embed_lines(programs.embed),
                *(recomputing_lines(graph) if recomputing else []),
                *within_width(writer.lines(graph)),
                *kept_loss_lines(programs),
                *head,
                *with_shape(f"return {results[output]}", value),
            ]
        ),
    ]


def _shape_check(takes: ModelInput, context: int) -> list[str]:
    """The check of the length of an input, or of the shape of its pictures."""
    name = takes.name
    if not takes.has_positions:
        return [
            f"if {name}.shape[1:] != {takes.shape[1:]}:",
            f'    raise ValueError(f"pixels are (batch, {shape_of_one(takes)}), '
            f'not {{tuple({name}.shape)}}")',
        ]
    return [
        f"if {name}.shape[1] > {context}:",
        f'    raise ValueError(f"{{{name}.shape[1]}} {TAKES[name]} '
        f'exceed the context of {context}")',
    ]


def shape_of_one(takes: ModelInput) -> str:
    """``3, 224, 224``."""
    return ", ".join(map(str, takes.shape[1:]))
