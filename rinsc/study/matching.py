"""Models made as large, or as dear to run, as the baseline: their width and MLP width change.

Layers, heads and schedule stay. The width goes up or down by as little as is needed, and the width
of the MLP then takes up the rest:

    AB   12 layers executed, width 64, mlp_width 176
    A^2B 18 layers executed, width 56, mlp_width 127: forward FLOPs within 1 %
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

from rinsc.cost import forward_flops, stored_params
from rinsc.errors import RinscError, SpecError
from rinsc.graph import build_graph
from rinsc.spec import ModelSpec

TOLERANCE = 0.01
STRETCH = 2.0  # most that the MLP width changes beside the width
MOST_WIDTHS = 64  # that are tried

Amount = Callable[[ModelSpec], int]


def _parameters(spec: ModelSpec) -> int:
    return stored_params(build_graph(spec))


def _inference_flops(spec: ModelSpec) -> int:
    return forward_flops(build_graph(spec), spec.context).total


SIZED: Mapping[str, Amount] = {
    "parameters": _parameters,
    "inference FLOPs": _inference_flops,
}


def size_words(spec: ModelSpec) -> str:
    return f"width {spec.width} and mlp_width {spec.mlp_width}"


def matched_size(spec: ModelSpec, baseline: ModelSpec, match: str) -> ModelSpec:
    """The model with as many parameters, or forward FLOPs on a sequence as long as the context, as
    the baseline, to within 1 %. Raises SpecError where no width has them."""
    amount = SIZED[match]
    target = amount(baseline)
    if _is_near(amount(spec), target):
        return spec
    for wide in _widths(spec, grows=amount(spec) < target):
        fitted = _with_mlp(wide, amount, target)
        if fitted is not None:
            return fitted
    message = f"no width gives it the {match} of the baseline to within {TOLERANCE:.0%}"
    hint = 'take more width or fewer rounds, or match = "training FLOPs"'
    raise SpecError("cannot-match", message, hint=hint)


def _is_near(value: int, target: int) -> bool:
    return abs(value - target) <= TOLERANCE * target


def _widths(spec: ModelSpec, *, grows: bool) -> Iterator[ModelSpec]:
    """The model in its own width, and in others ever further from it, the MLP in proportion."""
    step = 2 * spec.heads * (1 if grows else -1)
    for number in range(MOST_WIDTHS):
        width = spec.width + number * step
        if width <= 0:
            return
        mlp_width = max(1, round(spec.mlp_width * width / spec.width))
        try:
            yield dataclasses.replace(spec, width=width, mlp_width=mlp_width)
        except RinscError:  # a width that some setting of a kind does not take
            continue


def _with_mlp(spec: ModelSpec, amount: Amount, target: int) -> ModelSpec | None:
    """The model with the MLP width that comes nearest, None where that is not near."""
    low, high = max(1, int(spec.mlp_width / STRETCH)), int(spec.mlp_width * STRETCH)

    def at(mlp_width: int) -> ModelSpec:
        return dataclasses.replace(spec, mlp_width=mlp_width)

    if not amount(at(low)) <= target <= amount(at(high)):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        if amount(at(middle)) <= target:
            low = middle
        else:
            high = middle
    nearest = min((at(low), at(high)), key=lambda model: abs(amount(model) - target))
    return nearest if _is_near(amount(nearest), target) else None
