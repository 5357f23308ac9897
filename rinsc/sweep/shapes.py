"""Which words can be wanted at all, by their number of visits and of blocks alone."""

from __future__ import annotations

from bisect import bisect_left

from rinsc.sweep.limits import Limits
from rinsc.sweep.sizing import Prices
from rinsc.syntax import MAX_VISITS


def wanted_blocks(
    price: Prices, limits: Limits, letters: int, visits: int, degree: int, *, strict: bool
) -> list[int]:
    """How many blocks a word of so many visits may have, so that its variant can be admitted.

    What is left out here never is; ``strict`` leaves out what the layers do not divide over.
    """
    return [
        blocks
        for blocks in range(1, min(letters, visits) + 1)
        if _can_be_wanted(price, limits, visits**degree, blocks**degree, strict)
    ]


def _can_be_wanted(price: Prices, limits: Limits, visits: int, parts: int, strict: bool) -> bool:
    if visits > MAX_VISITS or parts > price.layers:
        return False
    share, more = divmod(price.layers, parts)
    if strict and more:
        return False
    # Each part runs once, and the visits beyond that run parts of `share` layers or of one more.
    least = price.layers + (visits - parts) * share
    most = least + (visits - parts if more else 0)
    executed = range(
        max(least, limits.min_layers_executed), int(min(most, limits.max_layers_executed)) + 1
    )
    # The cost grows with the layers executed, so the cheapest of those dear enough decides.
    first = bisect_left(
        executed,
        limits.min_cost_ratio,
        key=lambda layers: price.costs(parts, visits, layers).cost_ratio,
    )
    return first < len(executed) and limits.admit(price.costs(parts, visits, executed[first]))
