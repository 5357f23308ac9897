"""What a run may spend, in FLOPs, tokens or steps, and the settings that follow from it.

Everything here is known before PyTorch is there.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from rinsc.cost.flops import set_rounds
from rinsc.errors import SpecError, UsageError, setting
from rinsc.graph import BlockGraph, TowersGraph, build_graph
from rinsc.objectives import OBJECTIVES
from rinsc.scalars import whole_count
from rinsc.spec.towers import AnySpec
from rinsc.training.config import TrainConfig, config_from_mapping
from rinsc.training.schedules import Depths, graph_of

MAX_WARMUP, WARMUP_SHARE = 50, 0.1  # steps, and of all steps
DEFAULT_STEPS = 1000

Unit = Literal["flops", "tokens", "steps"]
Graph: TypeAlias = BlockGraph | TowersGraph
Model: TypeAlias = AnySpec | Graph  # a graph, where it is there already
Settings: TypeAlias = TrainConfig | Mapping[str, Any] | None
_BUDGET = re.compile(r"(?P<amount>\S+?)\s*(?P<unit>flops|tokens|steps)?", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """An amount of training FLOPs, of tokens, or of steps."""

    amount: int
    unit: Unit


@dataclass(frozen=True)
class Spending:
    """A run in all three units.

    The FLOPs are those that the run will have spent, at the rounds that it will have drawn.
    ``is_exact`` is false where there are too many draws to add up; they are an expectation then.
    """

    steps: int
    tokens: int
    training_flops: int
    is_exact: bool


def budget_from_text(text: str) -> Budget:
    """``1e18``, ``1e18 flops``, ``6e9tokens``, ``1000 steps``; raises UsageError.

    >>> budget_from_text("6e3tokens")
    Budget(amount=6000, unit='tokens')
    """
    match = _BUDGET.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError("write a number, and flops, tokens or steps behind it")
        unit = (match["unit"] or "flops").lower()
        return Budget(whole_count(match["amount"]), unit)  # type: ignore[arg-type]
    except ValueError as error:
        message = f"{setting('budget')} does not take '{text[:60]}': {error}"
        hint = "write 1e18 for FLOPs, or 6e9tokens, or 1000steps"
        raise UsageError("usage", message, hint=hint) from None


def run_config(
    spec: AnySpec,
    settings: Settings = None,
    budget: str | Budget | None = None,
    baseline: Model | None = None,
    *,
    graph: Graph | None = None,
) -> TrainConfig:
    """The settings of a run of ``spec`` with the steps that its budget pays for.

    ``graph`` is that of ``spec``, where it is there already.
    Raises SpecError where they do not fit each other or the model.
    """
    if isinstance(budget, str):
        budget = budget_from_text(budget)
    warmup: int | None = None
    if isinstance(settings, TrainConfig):
        config, warmup = settings, settings.warmup_steps
    else:
        values = {"sequence_length": spec.context, "steps": DEFAULT_STEPS, **(settings or {})}
        config, warmup = config_from_mapping(values), values.get("warmup_steps")
    graph = check_settings(spec, config, graph)
    budget = budget or Budget(config.steps, "steps")
    if baseline is None:
        config = with_budget(config, graph, budget)
    else:
        plain = dataclasses.replace(config, rounds=None, rounds_schedule=())
        steps = with_budget(plain, baseline, budget).steps
        config = matched(dataclasses.replace(config, steps=steps), graph, baseline)
    if warmup is None:
        warmup = min(MAX_WARMUP, int(config.steps * WARMUP_SHARE))
    return dataclasses.replace(config, warmup_steps=warmup)


def check_settings(spec: AnySpec, config: TrainConfig, graph: Graph | None = None) -> Graph:
    """The graph of a model that the settings fit.

    Raises SpecError where the model has other ports or the settings do not fit it, and
    GraphError for rounds that it cannot run or train."""
    OBJECTIVES[config.objective].check_model(spec)
    if config.objective == "sigmoid_pairs" and config.accumulate > 1:
        message = f"in {config.accumulate} parts of a batch no pair is compared across parts"
        checkpointing = setting("checkpointing='visit'", "--checkpointing visit")
        hint = f"leave {setting('accumulate')} out; {checkpointing} saves memory, too"
        raise SpecError("parts-of-pairs", message, place="accumulate", hint=hint)
    if config.sequence_length > spec.context:
        message = f"sequence_length {config.sequence_length} is beyond the context {spec.context}"
        hint = "shorten it, or raise context"
        raise SpecError("beyond-context", message, hint=hint)
    graph = graph or build_graph(spec)
    set_rounds(graph, config.rounds)
    for _, rounds in config.rounds_schedule:
        set_rounds(graph, rounds)
    return graph


def with_budget(config: TrainConfig, model: Model, budget: Budget) -> TrainConfig:
    """The settings with the steps that the budget pays for; raises SpecError for less than one."""
    if budget.unit == "flops":
        graph = graph_of(model)
        steps = _steps_for_flops(config, graph, budget.amount)
        least = spending(dataclasses.replace(config, steps=1), graph).training_flops
    else:
        least = config.batch_tokens if budget.unit == "tokens" else 1
        steps = budget.amount // least
    if steps < 1:
        message = f"{budget.amount} {_unit_name(budget.unit)} pay for no step: one takes {least}"
        hint = "give more, or make a step smaller with fewer or shorter sequences"
        raise SpecError("budget-too-small", message, place="budget", hint=hint)
    return dataclasses.replace(config, steps=steps)


def matched(config: TrainConfig, model: Model, baseline: Model) -> TrainConfig:
    """The settings of ``baseline`` with the steps that cost ``model`` the same training FLOPs.

    The baseline runs as its signature says, whatever rounds the settings give to the other. Both
    draw their rounds with the seed of the settings. Raises SpecError where the FLOPs do not pay
    for one step.
    """
    plain = dataclasses.replace(config, rounds=None, rounds_schedule=())
    flops = spending(plain, baseline).training_flops
    graph = graph_of(model)
    settings = with_budget(config, graph, Budget(flops, "flops"))
    if flops - spending(settings, graph).training_flops < one_more_step(settings, graph):
        return settings
    # Each stage of a schedule that goes up and down moves with the length: one step more can cost
    # more than any step does, and is then nearer to the budget.
    return dataclasses.replace(settings, steps=settings.steps + 1)


def one_more_step(config: TrainConfig, model: Model) -> int:
    """Training FLOPs of the most expensive step that could come next."""
    return Depths(model, config).flops_of_one_more(config.steps)


def spending(config: TrainConfig, model: Model) -> Spending:
    """What a run with these settings comes to."""
    depths = Depths(model, config)
    return Spending(config.steps, config.tokens, depths.planned_flops(), depths.is_exact)


def _steps_for_flops(config: TrainConfig, graph: Graph, flops: int) -> int:
    """The most steps that cost no more; a schedule of rounds stretches over all of them."""
    depths = Depths(graph, config)
    if depths.drawn:
        return depths.drawn_steps_within(flops)

    def cost(steps: int) -> int:
        return spending(dataclasses.replace(config, steps=steps), graph).training_flops

    sample = 1000 if config.rounds_schedule else 1
    sample_cost = cost(sample)
    steps = flops * sample // sample_cost
    if not config.rounds_schedule:
        return steps
    # Stages begin at whole steps, so that the sample's cost of a step is nearly right.
    for _ in range(3):
        steps = max(1, steps + (flops - cost(max(1, steps))) * sample // sample_cost)
    while cost(steps + 1) <= flops:
        steps += 1
    while steps > 0 and cost(steps) > flops:
        steps -= 1
    return steps


def _unit_name(unit: Unit) -> str:
    return "FLOPs" if unit == "flops" else unit
