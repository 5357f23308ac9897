"""`ModelFacts` of one model as source: constants, and sums over the rounds that are asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from inspect import getsource
from typing import Any, TypeAlias, get_args

from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.facts import slots_of_visit
from rinsc.backends.torch.decoding import Checkpointing
from rinsc.backends.torch.statements import indented
from rinsc.cost.counts import BlockRuns, LoopRuns, RunCounts
from rinsc.cost.flops import PYTORCH, flops_of_a_step
from rinsc.graph import BlockGraph, Loop, Visit, build_graph, plain_rounds
from rinsc.graph.rounds import spelled_rounds
from rinsc.layers import trace_programs
from rinsc.layers.kind import takes_pictures

# A number, or what each token and each pair of tokens adds to one.
Amount: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class Sum:
    """What each visit and each round adds to the variable ``name``, over ``counts``."""

    name: str
    of_visit: Callable[[Visit], Amount]
    of_round: Callable[[Loop], Amount] = lambda loop: (0, 0)
    is_shared: Callable[[Loop], bool] = lambda loop: False  # its rounds count as one
    of_tokens: bool = False

    def text(self, amount: Amount) -> str:
        if not self.of_tokens:
            return str(amount[0])
        terms = ["seq"] if amount[0] == 1 else [f"{amount[0]} * seq"] if amount[0] else []
        terms += [f"{amount[1]} * seq**2"] if amount[1] else []
        return " + ".join(terms) or "0"


def total(graph: BlockGraph, summed: Sum) -> list[str]:
    """Statements after which the variable holds the sum."""
    return list(_lines(graph, summed, summed.name, (0, 0)))


def _lines(graph: BlockGraph, summed: Sum, variable: str, more: Amount) -> Iterator[str]:
    """A repeat's own sum has a variable of its own, which is made before those around it."""
    amount, terms = more, []
    for node in graph.steps():
        if isinstance(node, Visit):
            amount = _plus(amount, summed.of_visit(node))
            continue
        inner = f"{summed.name}_{node.name.lower()}"
        yield from _lines(node.body, summed, inner, summed.of_round(node))
        terms.append(inner if summed.is_shared(node) else f'counts["{node.name}"] * {inner}')
    yield f"{variable} = {summed.text(amount)}"
    yield from (f"{variable} += {term}" for term in terms)


def _plus(left: Amount, right: Amount) -> Amount:
    return left[0] + right[0], left[1] + right[1]


def executed_layers(graph: BlockGraph) -> Sum:
    """Layers that run."""
    return Sum("layers", lambda visit: (graph.blocks[visit.block].layers * visit.each, 0))


def cache_slots(graph: BlockGraph) -> Sum:
    """Pairs of keys and values that are kept."""
    return Sum(
        "slots",
        lambda visit: (slots_of_visit(graph, visit.block) * visit.each, 0),
        is_shared=lambda loop: loop.options.cache != "own",
    )


def step_flops(graph: BlockGraph) -> list[str]:
    """The body of ``step_flops``: what runs forward, twice that of what runs with gradients."""
    costs = _UnitCosts(graph)
    vocabulary = _UnitCosts(_with_one_more_token(graph)).frame[0] - costs.frame[0]
    windows = {
        loop.name: f'min(counts["{loop.name}"], {loop.options.grad})'
        for loop in graph.loops()
        if loop.options.grad is not None
    }
    repeated = total(graph, Sum("flops", costs.visit, costs.round, of_tokens=True))
    frame = _frame_text(costs.frame, vocabulary, graph.spec.vocab_size)
    factor = PYTORCH.gradient_factor
    if not windows:
        return [*repeated, f"frame = {frame}", f"return batch * (frame + {1 + factor} * flops)"]
    return [
        f"frame = {frame}",
        "",
        "def forward(counts: dict[str, int]) -> int:",
        *(f"    {line}" for line in repeated),
        "    return flops",
        "",
        "with_gradients = dict(counts)",
        *(f'with_gradients["{name}"] = {rounds}' for name, rounds in windows.items()),
        f"return batch * (frame + forward(counts) + {factor} * forward(with_gradients))",
    ]


def _frame_text(frame: Amount, of_a_token: int, vocab_size: int) -> str:
    """What embedding and head cost, of a vocabulary that may be resized."""
    rest = Sum("frame", lambda visit: (0, 0), of_tokens=True).text(
        (frame[0] - of_a_token * vocab_size, frame[1])
    )
    head = f'{of_a_token} * self.spec["vocab_size"] * seq'
    return head if rest == "0" else f"{head} + {rest}"


def _with_one_more_token(graph: BlockGraph) -> BlockGraph:
    return build_graph(replace(graph.spec, vocab_size=graph.spec.vocab_size + 1))


@dataclass(frozen=True)
class _UnitCosts:
    """FLOPs of one sequence: in a training step of the embedding and the head, and forward of one
    visit or round. Every cost is a multiple of ``seq`` and one of its square."""

    graph: BlockGraph

    @property
    def frame(self) -> Amount:
        return self._fitted({}, {})

    def visit(self, visit: Visit) -> Amount:
        layers = self.graph.blocks[visit.block].layers * visit.each
        return self._beyond({visit.block: BlockRuns(visits=1, layer_runs=layers)}, {})

    def round(self, loop: Loop) -> Amount:
        return self._beyond({}, {loop.name: LoopRuns(rounds=1)})

    def _beyond(self, blocks: dict[str, BlockRuns], loops: dict[str, LoopRuns]) -> Amount:
        all_of_it, frame = self._fitted(blocks, loops), self.frame
        return all_of_it[0] - frame[0], all_of_it[1] - frame[1]

    def _fitted(self, blocks: dict[str, BlockRuns], loops: dict[str, LoopRuns]) -> Amount:
        every = {name: BlockRuns() for name in self.graph.blocks} | blocks
        trips = {loop.name: LoopRuns() for loop in self.graph.loops()} | loops
        counts = RunCounts(every, trips)
        one, two = (int(flops_of_a_step(self.graph, counts, 1, seq, PYTORCH)) for seq in (1, 2))
        pairs = (two - 2 * one) // 2
        return one - pairs, pairs


LINE = 100
SPELLING = (getsource(spelled_rounds), "", getsource(plain_rounds))

ERRORS = '''
def cannot_run(code: str, message: str, hint: str, place: str | None = None) -> ValueError:
    """The error for what a model cannot do."""
    return ValueError(f"{message}; {hint}")


def damaged_weights(path: Path) -> ValueError:
    """The error for a file of weights that is not as it was written."""
    return ValueError(f"{path} is damaged; copy or export it again")


def changed_config(path: Path) -> ValueError:
    """The error for a config that is not as it was written."""
    message = f"{path} is not as it was written; restore it, "
    return ValueError(f"{message}or remove checksums.json if you changed it yourself")


def wrong_value(code: str, message: str, hint: str, place: str | None = None) -> ValueError:
    """The error for a value that nothing has."""
    return ValueError(f"{message}; {hint}")
'''

_CLASS = '''

class ModelFacts:
    """What follows from the spec of this model."""

    spec: dict[str, Any]
    takes_noise_seed = {takes_noise_seed}

    @staticmethod
    def checked_spec(spec: dict[str, Any]) -> dict[str, Any]:
        """The spec, which this file is the code of, at any size of the vocabulary."""
        if spec != {{**SPEC, "vocab_size": spec.get("vocab_size")}}:
            raise ValueError("the config is of another model than this code; export both anew")
        return spec

    def dimensions(self) -> dict[str, Any]:
        """The spec in the words that tools know."""
        return {{**DIMENSIONS, "vocab_size": self.spec["vocab_size"]}}

    def resolved(self, rounds: Rounds) -> dict[str, int]:
        """Rounds of every repeat."""
{resolved}

    def executed_layers(self, counts: dict[str, int]) -> int:
        """Layers that a pass at these rounds runs."""
{executed_layers}

    def tp_plan(self) -> dict[str, str]:
        """How matrices are cut over devices."""
        return dict(TP_PLAN)

    def fsdp_plan(self) -> dict[str, str]:
        """What is gathered by itself where a model is sharded."""
        return dict(FSDP_PLAN)
'''

_LANGUAGE = '''
    keeps_cache = {keeps_cache}
    shares_slots = {shares_slots}

    def new_module(self) -> Model:
        """The module, freshly initialised."""
        model, rows = Model(), self.spec["vocab_size"]
        if rows != SPEC["vocab_size"]:
{resized}
            model.reset_parameters()
        return model

    def adopt(self, module: Model) -> None:
        """Nothing: the code is that of every size of the vocabulary."""

    def cache_slots(self, counts: dict[str, int]) -> int:
        """Pairs of keys and values that a pass at these rounds keeps."""
{cache_slots}

    def step_flops(self, batch: int, seq: int, counts: dict[str, int]) -> int:
        """FLOPs of a training step over (batch, seq) tokens: 2 for each multiply-add."""
{step_flops}

    def require_sequence(self, seq: int) -> None:
        """Refuse a sequence beyond the context."""
        if seq > {context}:
            raise ValueError(f"{{seq}} tokens exceed the context of {context}")
'''

_PICTURES = '''
    patch_width = {patch_width}

    def new_plain_module(self) -> Model:
        """The module, freshly initialised."""
        model, rows = Model(), self.spec["vocab_size"]
        if rows != SPEC["vocab_size"]:
            head = model.{head}
            model.{head} = nn.Linear(head.in_features, rows, bias=head.bias is not None)
            model.reset_parameters()
        return model
'''


def facts_source(config: RinscConfig) -> str:
    """The source of what `rinsc.backends.hf.facts` is to the model of a config."""
    graph = config.graph
    looped = any(graph.dials())
    ways = ", ".join(f'"{way}"' for way in get_args(Checkpointing))
    lines = [] if looped else ["Rounds: TypeAlias = int | Mapping[str, int] | None"]
    lines += [f"Checkpointing: TypeAlias = Literal[{ways}]", "FOREIGN_KEYS: tuple[str, ...] = ()"]
    for name, values in (
        ("SPEC", config.spec or {}),
        ("DIMENSIONS", config.dimensions()),
        ("TP_PLAN", config.tp_plan()),
        ("FSDP_PLAN", config.fsdp_plan()),
    ):
        lines += literal(name, values)
    facts = _CLASS.format(
        takes_noise_seed=config.takes_noise_seed,
        resolved=_body(_resolved(looped)),
        executed_layers=_body([*total(graph, executed_layers(graph)), "return layers"]),
    )
    facts += _pictures(config) if is_of_pictures(config) else _language(config)
    return "\n".join([*lines, "", "", *SPELLING, ""]) + ERRORS + facts


def is_of_pictures(config: RinscConfig) -> bool:
    """Whether the model takes patches of pictures."""
    return takes_pictures(config.model_spec)


def _language(config: RinscConfig) -> str:
    graph = config.graph
    return _LANGUAGE.format(
        keeps_cache=config.keeps_cache,
        shares_slots=config.shares_slots,
        context=graph.spec.context,
        resized=_body(indented(_resized(graph.spec.tied_embedding))),
        cache_slots=_body([*total(graph, cache_slots(graph)), "return slots"]),
        step_flops=_body(step_flops(graph)),
    )


def _pictures(config: RinscConfig) -> str:
    head = trace_programs(config.model_spec).head.nodes[-1].name
    return _PICTURES.format(patch_width=config.patch_width, head=head)


def literal(name: str, values: Mapping[str, Any]) -> list[str]:
    """A dictionary as a formatter writes it."""
    annotation = ": dict[str, Any]" if name == "SPEC" else ": dict[str, str]" * (not values)
    return _laid_out(f"{name}{annotation} = ", values, "")


def _laid_out(start: str, value: object, end: str) -> list[str]:
    """On one line, or a table with an item a line; a signature may be longer than a line."""
    line = f"{start}{_value(value)}{end}"
    if len(line) <= LINE:
        return [line]
    if not isinstance(value, Mapping):
        return [f"{line}  # noqa: E501"]
    indent = " " * (len(start) - len(start.lstrip()))
    items = (_laid_out(f"{indent}    {json.dumps(k)}: ", v, ",") for k, v in value.items())
    return [f"{start}{{", *(line for lines in items for line in lines), f"{indent}}}{end}"]


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(k)}: {_value(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)


def _body(lines: list[str]) -> str:
    return "\n".join(indented(indented(lines)))


def _resized(tied: bool) -> list[str]:
    """Statements that give the embedding, and a head of its own, another number of ``rows``."""
    lines = ["model.embedding = nn.Embedding(rows, model.embedding.embedding_dim)"]
    head = "model.head = nn.Linear(model.head.in_features, rows, bias=False)"
    return lines if tied else [*lines, head]


def _resolved(looped: bool) -> list[str]:
    if looped:
        return ["return dict(resolve_rounds(rounds))"]
    return [
        "if rounds not in (None, {}) and whole(rounds) != 1:",
        '    raise ValueError(f"rounds {rounds!r} were asked of a model without a repeat")',
        "return {}",
    ]
