"""Which variants are wanted, by what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Protocol

from rinsc.errors import Problem, SpecError
from rinsc.scalars import real
from rinsc.spec.checks import shown


class HasCosts(Protocol):
    """A variant or an entry of the zoo, with its figures."""

    @property
    def parameters(self) -> int: ...

    @property
    def executed_layers(self) -> int: ...

    @property
    def cost_ratio(self) -> float: ...


@dataclass(frozen=True)
class Limits:
    """Which variants are wanted; every bound is included. Raises `SpecError` where none can be."""

    min_parameters: int = 0
    max_parameters: float = math.inf
    min_layers_executed: int = 0
    max_layers_executed: float = math.inf
    min_cost_ratio: float = 0.0
    max_cost_ratio: float = math.inf

    def __post_init__(self) -> None:
        problems = []
        for field in fields(self):
            object.__setattr__(self, field.name, self._number(field.name))
        for name in ("parameters", "layers_executed", "cost_ratio"):
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if not least <= most:
                message = f"no variant has {name.replace('_', ' ')} from {least} to {most}"
                hint = f"raise the maximum of {name.replace('_', ' ')}, or lower its minimum"
                problems.append(Problem("empty-range", message, place=name, hint=hint))
        if problems:
            raise SpecError(*problems)

    def _number(self, name: str) -> int | float:
        given = getattr(self, name)
        number = real(given)
        if number is None:
            message = f"{name} must be a number, not {shown(given)}"
            raise SpecError(Problem("bad-type", message, place=name, hint=f"change '{name}'"))
        return number

    def admit(self, model: HasCosts) -> bool:
        """Whether a model is wanted."""
        return (
            self.min_parameters <= model.parameters <= self.max_parameters
            and self.min_layers_executed <= model.executed_layers <= self.max_layers_executed
            and self.min_cost_ratio <= model.cost_ratio <= self.max_cost_ratio
        )


EVERYTHING = Limits()
