"""The options that choose among variants by what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cyclopts import Group, Parameter

from rinsc.cli.values import Count, option_values

if TYPE_CHECKING:
    from rinsc.sweep.limits import Limits


@Parameter(name="*", group=Group("Filters"))
@dataclass(frozen=True)
class Filters:
    """Bounds, each of them included."""

    min_parameters: Count = 0
    """Leave out what has fewer parameters."""

    max_parameters: Count | None = None
    """Leave out what has more parameters."""

    min_cost_ratio: float = 0.0
    """Leave out what costs less, against the same blocks visited once each."""

    max_cost_ratio: float = math.inf
    """Leave out what costs more."""

    min_layers_executed: Count = 0
    """Leave out what runs fewer layers."""

    max_layers_executed: Count | None = None
    """Leave out what runs more layers."""

    @property
    def limits(self) -> Limits:
        """The bounds, checked; raises `UsageError` where nothing can lie between them."""
        from rinsc.sweep.limits import Limits

        most, layers = self.max_parameters, self.max_layers_executed
        with option_values():
            return Limits(
                min_parameters=self.min_parameters,
                max_parameters=math.inf if most is None else most,
                min_layers_executed=self.min_layers_executed,
                max_layers_executed=math.inf if layers is None else layers,
                min_cost_ratio=self.min_cost_ratio,
                max_cost_ratio=self.max_cost_ratio,
            )


NO_FILTERS = Filters()
