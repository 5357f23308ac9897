"""A variant with its costs, as tables and JSON have it."""

from __future__ import annotations

from dataclasses import dataclass

from rinsc.cost import cost_report, training_flops_per_token
from rinsc.spec import ModelSpec, with_signature
from rinsc.syntax.canonical import letter_name


@dataclass(frozen=True)
class Costed:
    """A signature at some dimensions.

    FLOPs are of the training of one token in a sequence as long as the context; ``cost_ratio`` is
    their ratio to those of the same blocks visited once each.
    """

    signature: str
    parameters: int
    executed_layers: int
    training_flops_per_token: int
    cost_ratio: float


def costed(base: ModelSpec, signature: str) -> Costed:
    """A signature at the dimensions of ``base``."""
    spec = with_signature(base, signature)
    report = cost_report(spec)
    parts = enumerate(spec.parts.values())
    once = with_signature(base, " ".join(f"{letter_name(index)}[{size}]" for index, size in parts))
    flops = report.training_flops_per_token
    return Costed(
        signature=report.signature,
        parameters=report.stored_params,
        executed_layers=report.executed_layers,
        training_flops_per_token=flops,
        cost_ratio=flops / training_flops_per_token(once, once.context),
    )
