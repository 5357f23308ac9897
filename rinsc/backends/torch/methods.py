"""Methods of an emitted model: the start of its weights, and the forms of ``forward``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from rinsc.backends.torch.blocks import WIDEST, BlockClass
from rinsc.backends.torch.drawing import drawing_lines
from rinsc.backends.torch.ops import TORCH_OPS
from rinsc.backends.torch.statements import (
    call,
    definition,
    indented,
    statements,
    with_shape,
    within_width,
)
from rinsc.backends.torch.steps import RECORD, StepWriter, slot_terms, takes_noise_seed
from rinsc.errors import LoweringError
from rinsc.graph import BlockGraph
from rinsc.layers import Programs, layer_kind
from rinsc.layers.auxiliary import has_losses
from rinsc.layers.weight_names import weights
from rinsc.ops import Embedding, Init, Linear, Param, TiedLinear
from rinsc.ops.program import Program

RESULT = "tuple[torch.Tensor, list[torch.Tensor]]"


def cached_forward(
    graph: BlockGraph, programs: Programs, classes: Mapping[str, BlockClass]
) -> list[str]:
    """New token ids (batch, seq) and the cache of those before them, to logits and a cache.

    The cache is a list of keys and values (batch, kv_heads, past, head_dim), in the order in which
    visits make them.
    """
    looped = any(graph.dials())
    parameters = [
        "input_ids: torch.Tensor",
        "past: list[torch.Tensor] | None = None",
        "attention_mask: torch.Tensor | None = None",
        f"rounds: {'Rounds' if looped else 'int | None'} = None",
    ]
    parameters += ["noise_seed: int | None = None"] if takes_noise_seed(graph) else []
    sides = tuple(name for name in programs.embed.outputs if name != "x")
    writer = StepWriter(graph, classes, sides, cached=True)
    head, results = statements(programs.head, {"x": "x"})
    terms = slot_terms(graph, classes)
    context = graph.spec.context
    return [
        *definition("forward", parameters, RESULT),
        *indented(
            [
                "before = past[0].shape[2] if past else 0",
                "shape = (input_ids.shape[0], before + input_ids.shape[1])",
                "if attention_mask is None:",
                "    attention_mask = input_ids.new_ones(shape)",
                "if attention_mask.shape != shape:",
                "    found = tuple(attention_mask.shape)",
                '    raise ValueError(f"attention_mask {found}, not {shape}")',
                f"if shape[1] > {context}:",
                f'    raise ValueError(f"{{shape[1]}} tokens exceed the context of {context}")',
                *drawing_lines(graph, "input_ids.shape[0]", again="past is not None"),
                *(_cached_one_by_one(graph) if graph.shares_slots else []),
                *rounds_lines(looped),
                *embed_lines(programs.embed),
                *(f"size {'+' * bool(i)}= {term}" for i, term in enumerate(terms)),
                "if past is not None and len(past) != size:",
                '    raise ValueError(f"the cache has {len(past)} slots, not {size}")',
                "slots = iter(past or ())",
                "present: list[torch.Tensor] = []",
                *within_width(writer.lines(graph, "slots", "present")),
                *head,
                f"return {results['logits']}, present",
            ]
        ),
    ]


def _cached_one_by_one(graph: BlockGraph) -> list[str]:
    """Several new tokens as passes of one token each, for rounds that share slots."""
    arguments = ["token", "past", "seen", "rounds"]
    arguments += ["noise_seed"] if takes_noise_seed(graph) else []
    return [
        "if input_ids.shape[1] > 1:  # each token sees what the slots keep of those before it",
        "    tokens = []",
        "    for end in range(before + 1, shape[1] + 1):",
        "        token, seen = input_ids[:, end - before - 1, None], attention_mask[:, :end]",
        *indented(indented([f"logits, past = self.forward({', '.join(arguments)})"])),
        "        tokens.append(logits)",
        "    assert past is not None",
        "    return torch.cat(tokens, dim=1), past",
    ]


def embed_lines(embed: Program) -> list[str]:
    """Statements that make the state and the side values, each under its own name."""
    lines, expressions = statements(embed, {name: name for name in embed.inputs})
    for name, text in expressions.items():
        lines += with_shape(f"{name} = {text}", embed.outputs[name]) if name != text else []
    return lines


def rounds_lines(looped: bool) -> list[str]:
    """The check of ``rounds``."""
    if looped:
        return ["counts = resolve_rounds(rounds)"]
    return [
        "if rounds not in (None, {}) and whole(rounds) != 1:",
        '    raise ValueError(f"rounds {rounds!r} were asked of a model without a repeat")',
    ]


CHECKPOINTING = (
    '# "visit" or "round": activations of each are made again in the backward pass.',
    'checkpointing = "none"',
    "",
)


def recomputing_lines(graph: BlockGraph, when: str = "self.training") -> list[str]:
    """Whether a pass makes activations again, by visit or by round."""
    stretches = ("visit", "round") if any(graph.loops()) else ("visit",)
    return [f'by_{stretch} = {when} and self.checkpointing == "{stretch}"' for stretch in stretches]


def keeps_losses(programs: Programs) -> bool:
    """Whether layers add to the loss in training."""
    return any(map(has_losses, programs.distinct_layers()))


def loss_lines(programs: Programs, when: str = "") -> list[str]:
    """The list in which layers keep their losses."""
    if not keeps_losses(programs):
        return []
    return [f"losses = self.new_losses(){f' if {when} else None' if when else ''}"]


def kept_loss_lines(programs: Programs) -> list[str]:
    """The end of the layers, whose losses are kept until they are read."""
    return ["self.keep_losses(losses)"] if keeps_losses(programs) else []


def hosted_methods(
    graph: BlockGraph, programs: Programs, classes: Mapping[str, BlockClass]
) -> list[str]:
    """What a hosted model has beside its ``__init__`` and the start of its weights."""
    return [*CHECKPOINTING, *hosted_forward(graph, programs, classes)]


def hosted_forward(
    graph: BlockGraph, programs: Programs, classes: Mapping[str, BlockClass]
) -> list[str]:
    """Token ids (batch, seq) at the positions given (batch or 1, seq), to logits.

    ``states`` goes as far as what the head's matrix is multiplied with. ``mask`` (batch, 1, seq,
    total) says which keys each token sees, none that it is causal; ``slots`` is where keys and
    values are kept. ``inputs_embeds`` (batch, seq, width) stand in for the rows of the embedding.
    ``visited`` is a list that gets the state before the first visit and after each one; the last
    is as the head's matrix reads it.
    ``keep`` are the places in the sequence that logits are wanted of.
    """
    looped = any(graph.dials())
    parameters = [
        "input_ids: torch.Tensor | None",
        "position_ids: torch.Tensor",
        "mask: torch.Tensor | None = None",
        "slots: Slots | None = None",
        f"rounds: {'Rounds' if looped else 'int | None'} = None",
    ]
    parameters += ["noise_seed: int | None = None"] if takes_noise_seed(graph) else []
    parameters += [
        "inputs_embeds: torch.Tensor | None = None",
        "visited: list[torch.Tensor] | None = None",
    ]
    sides = tuple(name for name in programs.embed.outputs if name != "x")
    writer = StepWriter(graph, classes, sides, hosted=True, recomputing=True)
    before, matrix = head_parts(programs.head)
    head, state = statements(before, {"x": "x"})
    project, results = statements(matrix, {"x": "x"})
    names = [parameter.partition(":")[0] for parameter in parameters]
    return [
        *definition("states", parameters, "torch.Tensor"),
        *indented(
            [
                *(_one_by_one(graph) if graph.shares_slots else []),
                *loss_lines(programs, "slots is None"),
                *_embed_lines(programs.embed),
                RECORD,
                *drawing_lines(graph, "x.shape[0]", when="slots is None and "),
                *rounds_lines(looped),
                *recomputing_lines(graph, "self.training and slots is None"),
                *within_width(writer.lines(graph)),
                *kept_loss_lines(programs),
                *head,
                *with_shape(f"x = {state['x']}", before.outputs["x"]),
                "if visited is not None:",
                "    visited[-1] = x",
                "return x",
            ]
        ),
        "",
        *definition(
            "forward", [*parameters, "keep: slice | torch.Tensor | None = None"], "torch.Tensor"
        ),
        *indented(
            [
                *call("x = self.states", names),
                "if keep is not None:",
                "    x = x[:, keep]",
                *project,
                *with_shape(f"return {results['logits']}", matrix.outputs["logits"]),
            ]
        ),
    ]


def _embed_lines(embed: Program) -> list[str]:
    """`embed_lines` of a caller that may give the rows of the embedding itself.

    A model that reads token ids elsewhere too still needs them.
    """
    ids = embed.inputs["input_ids"]
    readers = [node for node in embed.nodes if ids in node.inputs]
    lookup = next(node for node in readers if isinstance(node.op, Embedding))
    table = TORCH_OPS[Embedding].call(lookup, ["input_ids"])
    nodes = tuple(node for node in embed.nodes if node is not lookup)
    rest = Program({**embed.inputs, "x": lookup.output}, nodes, embed.outputs)
    lines = with_shape(f"x = {table} if inputs_embeds is None else inputs_embeds", lookup.output)
    if len(readers) > 1:
        lines = [
            "if input_ids is None:",
            '    raise ValueError("this model reads token ids in several places; give input_ids")',
            *lines,
        ]
    return [*lines, *embed_lines(rest)]


def _one_by_one(graph: BlockGraph) -> list[str]:
    """Several new tokens as passes of one token each, for rounds that share slots."""
    arguments = [
        "None if input_ids is None else input_ids[:, one]",
        *("position_ids[:, one]", "seen", "slots", "rounds"),
        *(["noise_seed"] if takes_noise_seed(graph) else []),
        "None if inputs_embeds is None else inputs_embeds[:, one]",
        "states[-1]",
    ]
    return [
        "if slots is not None and position_ids.shape[1] > 1:",
        "    # Each token sees what the slots keep of those before it.",
        "    states: list[list[torch.Tensor]] = []",
        "    for one, seen in slots.one_by_one(position_ids, mask):",
        "        states.append([])",
        "        self.states(",
        *(f"            {argument}," for argument in arguments),
        "        )",
        "    joined = [torch.cat(each, dim=1) for each in zip(*states, strict=True)]",
        "    if visited is not None:",
        "        visited += joined",
        "    return joined[-1]",
    ]


def head_parts(head: Program) -> tuple[Program, Program]:
    """What the head does up to its matrix, and the rest; all of it where that reads more."""
    products = [
        index for index, node in enumerate(head.nodes) if isinstance(node.op, Linear | TiedLinear)
    ]
    if not products:
        return Program(head.inputs, (), {"x": head.inputs["x"]}), head
    first, rest = head.nodes[: products[-1]], head.nodes[products[-1] :]
    (state,) = rest[0].inputs
    known = {state, *(node.output for node in rest)}
    if any(value not in known for node in rest for value in node.inputs):
        return Program(head.inputs, (), {"x": head.inputs["x"]}), head
    return Program(head.inputs, first, {"x": state}), Program({"x": state}, rest, head.outputs)


def reset_lines(graph: BlockGraph, programs: Programs) -> list[str]:
    """Every parameter as its operation wants it; residual ones smaller with the depth executed."""
    writes = _residual_writes(graph, programs)
    std = layer_kind(graph.spec.kind).init_std
    keys, by_block = _keys_by_init(graph, programs)
    cases: list[tuple[Init, str]] = [
        ("residual", f"nn.init.normal_(parameter, std={std!r} / math.sqrt({writes}))"),
        ("ones", "nn.init.ones_(parameter)"),
        ("zeros", "nn.init.zeros_(parameter)"),
        ("identity", "nn.init.eye_(parameter)"),
        ("sum", "parameter.copy_(torch.eye(len(parameter)).repeat(1, 2))"),  # [I I]
        ("xavier", "nn.init.xavier_uniform_(parameter)"),
        ("lecun", "lecun_normal_(parameter)"),
        ("rows", "nn.init.normal_(parameter, std=1 / math.sqrt(parameter.shape[-1]))"),
        ("specks", "nn.init.normal_(parameter, std=1e-6)"),
    ]
    held = [(init, line) for init, line in cases if keys.get(init)]
    lines = [line for init, _ in held for line in _set_lines(_variable(init), keys[init])]
    lines += _set_lines("by_block", by_block) if by_block else []
    lines += ["for path, parameter in self.named_parameters():"]
    owned = 'path if path.startswith("loop_") else ' if any(_owned(graph)) else ""
    lines += [f'    name = {owned}".".join(path.split(".")[-2:])']
    if by_block:
        lines += ["    if name in by_block:", "        name = f\"{path.split('.')[0]}.{name}\""]
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


def _keys_by_init(graph: BlockGraph, programs: Programs) -> tuple[dict[Init, list[str]], list[str]]:
    """Names to know parameters by: whole for those of repeats, else without where they stand.

    The second list has the names that blocks start differently, which are known by their block too.
    Raises `LoweringError` where two layers of one block start weights of one name differently.
    """
    inits: dict[tuple[str, str], Init] = {}  # by where they stand, "" for the ends of the model
    for path, param in _owned(graph):
        inits["", path] = param.init
    for owner, param in _unowned(graph, programs):
        if inits.setdefault((owner, param.name), param.init) != param.init:
            message = f"two layer kinds start the weight '{param.name}' differently"
            hint = "rename the operation in one of the kinds"
            raise LoweringError("name-taken", message, hint=hint)
    starts: dict[str, set[Init]] = {}
    for (_, name), init in inits.items():
        starts.setdefault(name, set()).add(init)
    by_block = [name for name, own in starts.items() if len(own) > 1]
    keys: dict[Init, list[str]] = {}
    for (owner, name), init in inits.items():
        # A parameter of the ends stands at the top: the first word of its path is its own.
        key = f"{owner or name.partition('.')[0]}.{name}" if name in by_block else name
        if key not in keys.setdefault(init, []):
            keys[init].append(key)
    return keys, by_block


def _unowned(graph: BlockGraph, programs: Programs) -> Iterator[tuple[str, Param]]:
    """The weights of blocks and of both ends of the model, each with its block."""
    for block in graph.blocks.values():
        ends = (programs.enter.get(block.kind), programs.leave.get(block.kind))
        for program in (ends[0], *programs.distinct_layers([block.name]), ends[1]):
            yield from ((block.name, param) for param in (program.params if program else ()))
    for program in (programs.embed, programs.head):
        yield from (("", param) for param in program.params)


def _residual_writes(graph: BlockGraph, programs: Programs) -> int:
    """How often a forward pass adds to the state: they share the variance of the sum."""
    per_block = {
        name: sum(param.init == "residual" for program in own for param in program.params)
        for name, own in programs.layers.items()
    }
    return sum(visits * per_block[name] for name, visits in graph.visit_counts().items())


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
