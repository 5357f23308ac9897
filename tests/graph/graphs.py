"""What the tests of the block graph share: graphs from a line of text, and a plain expander."""

from __future__ import annotations

import re
from itertools import product

from rinsc.graph import BlockGraph, Visit, build_graph
from rinsc.spec import ModelSpec, model_spec
from rinsc.syntax import parse
from tests.specs import fitting_layers

SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def spec_of(text: str, layers: int | None = None) -> ModelSpec:
    return model_spec(
        text,
        layers=fitting_layers(parse(text)) if layers is None else layers,
        width=8,
        heads=2,
        mlp_width=16,
        vocab_size=11,
        context=16,
    )


def graph_of(text: str, layers: int | None = None) -> BlockGraph:
    return build_graph(spec_of(text, layers))


def params_of(graph: BlockGraph) -> dict[str, int]:
    """Made-up parameter counts, different for every block."""
    return {name: 1_100_000 * (index + 1) for index, name in enumerate(graph.blocks)}


def schedule(graph: BlockGraph) -> list[str]:
    return [visit.block for visit in graph.visits()]


def expand_text(text: str) -> list[str]:
    """The visits that a signature stands for, by rewriting its text alone."""
    text = re.sub("[⁰¹²³⁴-⁹]+", lambda run: "^" + run[0].translate(SUPERSCRIPTS), text)
    text, _, degree = re.sub(r"\s|\[\s*\d+\s*\]|[{}]", "", text).partition("@")
    text = re.sub(r"[A-Z][a-z0-9]*", r"(\g<0> )", text)
    while "(" in text:
        text = re.sub(
            r"\(([^()]*)\)(?:\^(\d+))?", lambda group: group[1] * int(group[2] or 1), text
        )
    paths = product(text.split(), repeat=int(degree or 1))
    return [first + "".join(rest).lower() for first, *rest in paths]


def text_at(graph: BlockGraph, rounds: dict[str, int]) -> str:
    """The graph as text again, with these rounds as exponents."""
    return "".join(
        step.block
        if isinstance(step, Visit)
        else f"({text_at(step.body, rounds)})^{rounds[step.name]}"
        for step in graph.steps()
    )
