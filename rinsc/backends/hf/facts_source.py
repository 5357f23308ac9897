"""`ModelFacts` of one model as source: constants, and sums over the rounds that are asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from inspect import getsource
from typing import Any, get_args

from rinsc.backends.hf.config import RinscConfig
from rinsc.backends.hf.sums_source import cache_slots, executed_layers, step_flops, total
from rinsc.backends.torch.hosting import Checkpointing
from rinsc.backends.torch.statements import indented
from rinsc.graph import plain_rounds

LINE = 100

_ERRORS = '''
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
    keeps_cache = {keeps_cache}
    shares_slots = {shares_slots}

    @staticmethod
    def checked_spec(spec: dict[str, Any]) -> dict[str, Any]:
        """The spec, which this file is the code of, at any size of the vocabulary."""
        if spec != {{**SPEC, "vocab_size": spec.get("vocab_size")}}:
            raise ValueError("the config is of another model than this code; export both anew")
        return spec

    def dimensions(self) -> dict[str, Any]:
        """The spec in the words that tools know."""
        return {{**DIMENSIONS, "vocab_size": self.spec["vocab_size"]}}

    def new_module(self) -> Model:
        """The module, freshly initialised."""
        model, rows = Model(), self.spec["vocab_size"]
        if rows != SPEC["vocab_size"]:
{resized}
            model.reset_parameters()
        return model

    def adopt(self, module: Model) -> None:
        """Nothing: the code is that of every size of the vocabulary."""

    def resolved(self, rounds: Rounds) -> dict[str, int]:
        """Rounds of every repeat."""
{resolved}

    def executed_layers(self, counts: dict[str, int]) -> int:
        """Layers that a pass at these rounds runs."""
{executed_layers}

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

    def tp_plan(self) -> dict[str, str]:
        """How matrices are cut over devices."""
        return dict(TP_PLAN)

    def fsdp_plan(self) -> dict[str, str]:
        """What is gathered by itself where a model is sharded."""
        return dict(FSDP_PLAN)
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
        keeps_cache=config.keeps_cache,
        shares_slots=config.shares_slots,
        context=graph.spec.context,
        resized=_body(indented(_resized(graph.spec.tied_embedding))),
        resolved=_body(_resolved(looped)),
        executed_layers=_body([*total(graph, executed_layers(graph)), "return layers"]),
        cache_slots=_body([*total(graph, cache_slots(graph)), "return slots"]),
        step_flops=_body(step_flops(graph)),
    )
    return "\n".join([*lines, "", "", getsource(plain_rounds), ""]) + _ERRORS + facts


def literal(name: str, values: Mapping[str, Any]) -> list[str]:
    """A dictionary as a formatter writes it."""
    annotation = ": dict[str, Any]" if name == "SPEC" else ": dict[str, str]" * (not values)
    items = [f"{json.dumps(key)}: {_value(value)}" for key, value in values.items()]
    line = f"{name}{annotation} = {{{', '.join(items)}}}"
    if len(line) <= LINE:
        return [line]
    return [f"{name}{annotation} = {{", *(_item(f"    {item},") for item in items), "}"]


def _item(line: str) -> str:
    """A signature may be longer than a line."""
    return line if len(line) <= LINE else f"{line}  # noqa: E501"


def _value(value: object) -> str:
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
