"""Whether a model's adapters are light, and which would be where they are not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from rinsc.cost.params import adapter_params, stored_params
from rinsc.errors import RinscError
from rinsc.graph import BlockGraph, build_graph
from rinsc.spec import ModelSpec, model_spec
from rinsc.spec.presets import PRESETS
from rinsc.syntax.tree import Call, Option, Signature, repeats, with_repeat_options

LIGHT_SHARE = 0.01  # of the parameters: what arXiv 2502.07503 takes for a light adapter


def adapter_share(graph: BlockGraph) -> float:
    """Parameters of adapters over all stored ones."""
    return adapter_params(graph) / stored_params(graph)


def is_light(share: float) -> bool:
    """Whether a share of adapters, as it is printed, is at most `LIGHT_SHARE`."""
    return round(share, 4) <= LIGHT_SHARE


def share_text(share: float) -> str:
    return f"{100 * share:.2f} %"


def heavy_note(spec: ModelSpec, share: float) -> str | None:
    """Words for adapters that hold ``share`` of the parameters; None where they are light."""
    if is_light(share):
        return None
    text = f"adapters hold {share_text(share)} of the parameters of {spec.text}, more than 1 %"
    lighter = light_adapter(spec)
    if lighter is None:
        return text
    adapter, less = lighter
    return f"{text}; with adapter={adapter} it is {share_text(less)}"


def heavy_at_presets(sig: Signature) -> str | None:
    """Words for a signature alone, whose adapters are heavy at some presets; None for others."""
    found = list(_heavy_presets(sig))
    return f"adapters hold more than 1 % of the parameters at {', '.join(found)}" if found else None


def _heavy_presets(sig: Signature) -> Iterator[str]:
    if not any(option.name == "adapter" for each in repeats(sig.body) for option in each.options):
        return
    for preset in PRESETS:
        try:
            spec = model_spec(sig, preset=preset)
            share = adapter_share(build_graph(spec))
        except (
            RinscError
        ):  # too few layers for its blocks, or another reason that is said elsewhere
            continue
        if not is_light(share):
            lighter = light_adapter(spec)
            instead = "" if lighter is None else f"; adapter={lighter[0]}: {share_text(lighter[1])}"
            yield f"{preset} ({share_text(share)}{instead})"


def light_adapter(spec: ModelSpec) -> tuple[str, float] | None:
    """The largest ``shared(rank)``, a power of 2, in place of the adapters with matrices that is
    light, and its share; None where there is nothing to replace or nothing fits."""
    ranks = [1 << power for power in range(spec.width.bit_length()) if 1 << power <= spec.width]
    for rank in reversed(ranks):
        lighter = _with_shared(spec.signature, rank)
        if lighter == spec.signature:
            return None
        share = adapter_share(build_graph(replace(spec, signature=lighter)))
        if is_light(share):
            return f"shared({rank})", share
    return None


def _with_shared(sig: Signature, rank: int) -> Signature:
    def changed(option: Option) -> Option:
        has_matrices = option.value == "linear" or isinstance(option.value, Call)
        if option.name != "adapter" or not has_matrices:
            return option
        return replace(option, value=Call("shared", (rank,)))

    return replace(sig, body=with_repeat_options(sig.body, changed))
