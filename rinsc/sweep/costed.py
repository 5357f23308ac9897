"""A variant with its costs, as tables and JSON have it."""

from __future__ import annotations

from dataclasses import dataclass

from rinsc.cost import cost_report, training_flops_per_token
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec, with_signature
from rinsc.syntax import uneven_split
from rinsc.syntax.canonical import letter_name
from rinsc.syntax.sizes import even_sizes


@dataclass(frozen=True)
class Costed:
    """A signature at some dimensions.

    FLOPs are of the training of one token in a sequence as long as the context; ``cost_ratio`` is
    their ratio to those of the same blocks visited once each. Where the layers do not divide over
    the blocks, ``layers_if_even`` is how many an even split would run.
    """

    signature: str
    parameters: int
    executed_layers: int
    training_flops_per_token: int
    cost_ratio: float
    layers_if_even: float | None = None


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
        layers_if_even=_layers_if_even(spec),
    )


def _layers_if_even(spec: ModelSpec) -> float | None:
    if uneven_split(spec.signature, spec.layers) is None:
        return None
    visits = build_graph(spec).visit_counts()
    sizes = even_sizes(spec.signature, spec.layers)
    return float(sum(sizes[name] * count for name, count in visits.items()))
