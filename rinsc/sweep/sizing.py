"""What a layer and a visit cost at the dimensions of one model, so that words cost a sum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from rinsc.cost import PYTORCH, stored_params, training_flops
from rinsc.cost.flops import program_flops
from rinsc.graph import build_graph
from rinsc.layers import trace_programs
from rinsc.program import Program
from rinsc.spec import ModelSpec
from rinsc.syntax import parse


class Costs(NamedTuple):
    """What a variant costs, as in `rinsc.sweep.costed.Costed`."""

    parameters: int
    executed_layers: int
    training_flops_per_token: int
    cost_ratio: float


@dataclass(frozen=True)
class Prices:
    """The cost of the whole stack visited once, as one block, and of what words add to it.

    FLOPs are of training on one sequence as long as the context. A kind may run and own more in
    each visit of a block than its layers: that is ``visit_flops`` and ``block_parameters``, and
    then one block of the layers of two is another model (``visits_matter``).
    """

    layers: int
    seq: int
    stack_parameters: int
    block_parameters: int
    stack_flops: int
    layer_flops: int
    visit_flops: int
    visits_matter: bool

    def costs(self, blocks: int, visits: int, executed_layers: int) -> Costs:
        """The costs of a word of so many blocks, which together have all the layers."""
        flops = self._flops_per_token(executed_layers, visits)
        once = self._flops_per_token(self.layers, blocks)
        parameters = self.stack_parameters + (blocks - 1) * self.block_parameters
        return Costs(parameters, executed_layers, flops, flops / once)

    def _flops_per_token(self, executed_layers: int, visits: int) -> int:
        """Training FLOPs of one token in a sequence as long as the context."""
        more_layers, more_visits = executed_layers - self.layers, visits - 1
        flops = self.stack_flops + more_layers * self.layer_flops + more_visits * self.visit_flops
        return flops // self.seq


def prices(spec: ModelSpec) -> Prices:
    """The prices at the dimensions of a spec, whose own signature plays no part."""
    # A word of plain letters has layers of the model's kind alone.
    stack = build_graph(replace(spec, signature=parse("A")))
    programs, kind = trace_programs(stack.spec), spec.kind
    ends = [ends[kind] for ends in (programs.enter, programs.leave) if kind in ends]

    def flops(program: Program) -> int:
        forward = program_flops(program, 1, spec.context, PYTORCH).total()
        return forward * PYTORCH.training_factor

    return Prices(
        layers=spec.layers,
        seq=spec.context,
        stack_parameters=stored_params(stack),
        block_parameters=sum(program.param_count for program in ends),
        stack_flops=training_flops(stack, spec.context),
        layer_flops=flops(programs.layer[kind]),
        visit_flops=sum(map(flops, ends)),
        visits_matter=bool(ends),
    )
