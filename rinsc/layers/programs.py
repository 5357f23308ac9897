"""A model's programs, as costs and backends are given them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rinsc.layers.kind import ModelInput
from rinsc.program import Program


@dataclass(frozen=True)
class Programs:
    """A model's programs: everything that costs and backends need to know of its layers.

    ``layer``, ``enter`` and ``leave`` are by kind, for the kinds that some block has.
    """

    input: ModelInput
    embed: Program
    layer: Mapping[str, Program]
    enter: Mapping[str, Program]
    leave: Mapping[str, Program]
    head: Program

    @property
    def every(self) -> tuple[Program, ...]:
        blocks = (*self.enter.values(), *self.layer.values(), *self.leave.values())
        return (self.embed, *blocks, self.head)
