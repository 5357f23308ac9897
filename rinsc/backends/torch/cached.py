"""The ``forward`` of a module that continues sequences, and what both forwards share."""

from __future__ import annotations

from collections.abc import Mapping

from rinsc.backends.torch.blocks import BlockClass
from rinsc.backends.torch.drawing import drawing_lines
from rinsc.backends.torch.statements import (
    definition,
    indented,
    statements,
    with_shape,
    within_width,
)
from rinsc.backends.torch.steps import StepWriter, slot_terms, takes_noise_seed
from rinsc.graph import BlockGraph
from rinsc.layers import Programs
from rinsc.program import Program

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
                *(_one_by_one(graph) if graph.shares_slots else []),
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


def _one_by_one(graph: BlockGraph) -> list[str]:
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
    lines, made = statements(embed, {name: name for name in embed.inputs})
    for name, text in made.items():
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
