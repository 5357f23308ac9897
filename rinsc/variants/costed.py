"""A variant with its costs, which variants are wanted, and prices for many at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, Protocol

from rinsc.cost import PYTORCH, cost_report, stored_params, training_flops, training_flops_per_token
from rinsc.cost.flops import program_flops
from rinsc.errors import Problem, SpecError, listed
from rinsc.graph import build_graph
from rinsc.layers import trace_programs
from rinsc.ops.program import Program
from rinsc.scalars import exact, real, rounded_count
from rinsc.spec import ModelSpec, with_signature
from rinsc.spec.checks import shown
from rinsc.syntax import parse
from rinsc.syntax.canonical import letter_name

MAX_REPEATS = 4  # in a cell


def rounds_text(expected: Mapping[str, int | float]) -> str:
    """``A 1.5, B 2``; a dash where there is nothing to repeat."""
    return listed([f"{name} {mean:g}" for name, mean in expected.items()], MAX_REPEATS) or "-"


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
    letters = []
    for index, (name, size) in enumerate(spec.parts.items()):
        own = spec.block_options[name]
        options = [f"tie={own.tie}"] if own.tie else []
        options += [f"kind={own.kind}"] if own.kind else []
        letter = name if spec.signature.degree == 1 else letter_name(index)
        letters.append(f"{letter}[{size}]" + (f"{{{', '.join(options)}}}" if options else ""))
    return with_signature(spec, " ".join(letters))


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
    if spec.normal.uneven is None:
        return None
    visits = build_graph(spec).visit_counts()
    sizes = spec.normal.even_sizes
    return float(sum(sizes[name] * count for name, count in visits.items()))


def variant_row(variant: Costed, idea: str, width: int) -> str:
    """A row of a table that is printed while it is made, under `variant_heads`."""
    figures = (rounded_count(variant.parameters), exact(variant.executed_layers))
    row = _row(variant.signature, *figures, f"{variant.cost_ratio:.3f}", width)
    even = variant.layers_if_even
    uneven = "" if even is None else f"uneven: {even:g} layer{'s' * (even != 1)} if even"
    return f"{row}  {'; '.join(filter(None, (uneven, idea)))}".rstrip()


def variant_heads(width: int) -> str:
    """The line of heads, with a first column of this width."""
    return _row("signature", "parameters", "layers", "ratio", width)


def _row(signature: str, parameters: str, layers: str, ratio: str, width: int) -> str:
    return f"{signature:<{width}} {parameters:>10} {layers:>7} {ratio:>7}"


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
            raise SpecError.of(*problems)

    def _number(self, name: str) -> int | float:
        value = getattr(self, name)
        number = real(value)
        if number is None:
            message = f"{name} must be a number, not {shown(value)}"
            raise SpecError("bad-type", message, place=name, hint=f"change '{name}'")
        return number

    def admit(self, model: HasCosts) -> bool:
        """Whether a model is wanted."""
        return (
            self.min_parameters <= model.parameters <= self.max_parameters
            and self.min_layers_executed <= model.executed_layers <= self.max_layers_executed
            and self.min_cost_ratio <= model.cost_ratio <= self.max_cost_ratio
        )


EVERYTHING = Limits()


class Costs(NamedTuple):
    """What a variant costs, as in `rinsc.variants.costed.Costed`."""

    parameters: int
    executed_layers: int
    training_flops_per_token: int
    cost_ratio: float


@dataclass(frozen=True)
class Prices:
    """The cost of the whole stack visited once, as one block, and of what words add to it.

    FLOPs are of training on one sequence as long as the context. A kind may run and own more in
    each visit of a block than its layers: that is ``visit_flops`` and ``block_parameters``. Then,
    or where layers differ, one block of the layers of two is another model (``visits_matter``).
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
    """The prices at the dimensions of a spec, whose own signature plays no part.

    Raises `SpecError` where layers of the stack differ in cost.
    """
    # A word of plain letters has layers of the model's kind alone.
    stack = build_graph(replace(spec, signature=parse("A")))
    programs, kind = trace_programs(stack.spec), spec.kind
    ends = [ends[kind] for ends in (programs.enter, programs.leave) if kind in ends]

    layers = programs.distinct_layers()

    def flops(program: Program) -> int:
        forward = program_flops(program, 1, spec.context, PYTORCH).total()
        return forward * PYTORCH.training_factor

    if len({(flops(layer), layer.param_count) for layer in layers}) > 1:
        message = f"layers of the kind '{kind}' cost more or less by where they stand"
        hint = "write the variants down: 'rinsc cost' counts each exactly"
        raise SpecError("layers-differ", message, place="kind", hint=hint)
    return Prices(
        layers=spec.layers,
        seq=spec.context,
        stack_parameters=stored_params(stack),
        block_parameters=sum(program.param_count for program in ends),
        stack_flops=training_flops(stack, spec.context),
        layer_flops=flops(layers[0]),
        visit_flops=sum(map(flops, ends)),
        visits_matter=bool(ends) or len(layers) > 1,
    )
