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


def visited_once(spec: ModelSpec) -> ModelSpec:
    """The same blocks visited once each: what the cost of a variant is compared with."""
    words = []
    for index, (name, size) in enumerate(spec.parts.items()):
        own = spec.block_options[name]
        said = [f"tie={own.tie}"] if own.tie else []
        said += [f"kind={own.kind}"] if own.kind else []
        letter = name if spec.signature.degree == 1 else letter_name(index)
        words.append(f"{letter}[{size}]" + (f"{{{', '.join(said)}}}" if said else ""))
    return with_signature(spec, " ".join(words))


def costed(base: ModelSpec, signature: str, *, strict: bool = False) -> Costed:
    """A signature at the dimensions of ``base``; ``strict`` as in `with_signature`."""
    spec = with_signature(base, signature, strict=strict)
    report = cost_report(spec)
    once = visited_once(spec)
    flops = report.training_flops_per_token
    return Costed(
        signature=report.signature,
        parameters=report.stored_params,
        executed_layers=report.executed_layers,
        training_flops_per_token=flops,
        cost_ratio=flops / training_flops_per_token(once, once.context),
    )
