"""Learning rate and depth of each step, as pure functions of seed and step.

So a resumed run needs no state, every rank draws the same, and the FLOPs of a run are known before
it starts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from rinsc.cost import training_flops
from rinsc.cost.flops import set_rounds
from rinsc.errors import plural
from rinsc.graph import BlockGraph, Rounds, TowersGraph, build_graph
from rinsc.graph.law import draw_rounds, drawn_loops, loop_law, noise_seed_of
from rinsc.objectives import OBJECTIVES
from rinsc.spec.towers import AnySpec
from rinsc.training.config import TrainConfig

EXACT_STEPS = 4_000_000  # whose draws are added up to plan a run: half a minute


def told_rounds(graph: BlockGraph | TowersGraph, config: TrainConfig) -> dict[str, int]:
    """The rounds of every repeat that the settings set, the most of a schedule."""
    most = max((rounds for _, rounds in config.rounds_schedule), default=config.rounds)
    return set_rounds(graph, most)


def most_rounds(graph: BlockGraph | TowersGraph, config: TrainConfig) -> dict[str, int]:
    """The most rounds that a step may run of every repeat.

    Of a law without a largest number they are those written.
    """
    drawn = {loop.name: loop_law(loop).largest or loop.rounds for loop in drawn_loops(graph)}
    return drawn | told_rounds(graph, config)


def graph_of(model: AnySpec | BlockGraph | TowersGraph) -> BlockGraph | TowersGraph:
    """The graph of a spec, or the graph that is there already."""
    return model if isinstance(model, BlockGraph | TowersGraph) else build_graph(model)


class Depths:
    """The rounds of each step and what they cost."""

    def __init__(self, model: AnySpec | BlockGraph | TowersGraph, config: TrainConfig) -> None:
        self._graph = graph_of(model)
        self._config = config
        self._set = set_rounds(self._graph, config.rounds)
        free = [loop.name for loop in drawn_loops(self._graph) if loop.name not in self._set]
        self.drawn = [] if config.rounds_schedule else free
        self._flops: dict[object, int] = {}

    def rounds(self, step: int) -> Rounds:
        """What the module is given in ``step``, counted from 0.

        Repeats that the settings fix run so; the others are drawn where their options say so.
        """
        if self._config.rounds_schedule:
            return self._scheduled(step)
        if not self.drawn:
            return self._config.rounds
        return draw_rounds(self._graph, self._config.seed, step) | self._set

    def shown_rounds(self, step: int) -> Mapping[str, int] | None:
        """The rounds of the step by repeat, of those that change; None where none do."""
        rounds = self.rounds(step)
        if self._config.rounds_schedule:
            return set_rounds(self._graph, rounds)
        if not self.drawn or not isinstance(rounds, Mapping):
            return None
        return {name: rounds[name] for name in self.drawn}

    def flops(self, step: int) -> int:
        """Training FLOPs of a step, at the rounds that it runs."""
        return self._flops_at(self.rounds(step))

    def flops_until(self, step: int) -> int:
        """Training FLOPs of all steps before ``step``, at the rounds that they run."""
        if self._config.rounds_schedule:
            return sum(
                (min(step, end) - start) * self.flops(start)
                for start, end in self._stages()
                if start < step
            )
        if not self.drawn:
            return step * self.flops(0)
        return sum(self.flops(earlier) for earlier in range(step))

    @property
    def is_exact(self) -> bool:
        """Whether `planned_flops` are those that the run will have spent.

        They are an expectation for more than `EXACT_STEPS` steps with drawn rounds.
        """
        return not self.drawn or self._config.steps <= EXACT_STEPS

    def planned_flops(self) -> int:
        """Training FLOPs of the whole run. Draws depend on seed and step, so they are known."""
        steps = self._config.steps
        return self.flops_until(steps) if self.is_exact else steps * self._mean_flops()

    def drawn_steps_within(self, flops: int) -> int:
        """The most steps with drawn rounds that cost no more than ``flops``.

        Steps beyond `EXACT_STEPS` are counted in expectation.
        """
        spent = 0
        for step in range(EXACT_STEPS):
            spent += self.flops(step)
            if spent > flops:
                return step
        return EXACT_STEPS + (flops - spent) // self._mean_flops()

    def flops_of_one_more(self, steps: int) -> int:
        """What a run of so many steps could cost more with one step more, at most."""
        if self._config.rounds_schedule:
            return max(self._flops_at(rounds) for _, rounds in self._config.rounds_schedule)
        return self.flops(steps)

    def _mean_flops(self) -> int:
        """Training FLOPs of a step in expectation."""
        return self._flops_at(self._config.rounds)

    def noise_seed(self, step: int, first_row: int = 0) -> int:
        """The seed of the noise that loops start from in ``step``: another one each step.

        A part of the batch gets that with which its rows, from ``first_row`` on, have the noise
        that they have in the whole batch.
        """
        return noise_seed_of(self._config.seed, step, first_row)

    def _scheduled(self, step: int) -> int:
        starts = [start for start, _ in self._stages()]
        return next(
            rounds
            for start, (_, rounds) in reversed(
                list(zip(starts, self._config.rounds_schedule, strict=True))
            )
            if start <= step
        )

    def _stages(self) -> list[tuple[int, int]]:
        """First step of each stage of the schedule, and the first after it."""
        steps = self._config.steps
        shares = [share for share, _ in self._config.rounds_schedule]
        starts = [math.ceil(round(share * steps, 6)) for share in shares]  # 0.07 · 100 is above 7
        return list(zip(starts, [*starts[1:], steps], strict=True))

    def _flops_at(self, rounds: Rounds) -> int:
        key = tuple(rounds.items()) if isinstance(rounds, Mapping) else (("", rounds or 0),)
        if key not in self._flops:
            of_loss = OBJECTIVES[self._config.objective].loss_flops
            self._flops[key] = of_loss(self._graph, self._config.batch_sequences) + training_flops(
                self._graph,
                self._config.sequence_length,
                batch=self._config.batch_sequences,
                rounds=rounds,
            )
        return self._flops[key]


def learning_rate(config: TrainConfig, step: int) -> float:
    """Learning rate of ``step``, counted from 0."""
    return config.learning_rate * learning_rate_share(config, step)


def schedule_note(config: TrainConfig) -> str | None:
    """What a user may not expect of the schedule, in words; None where there is nothing."""
    if config.warmup_steps < config.steps:
        return None
    last = learning_rate(config, config.steps - 1)
    return (
        f"the warm-up of {plural(config.warmup_steps, 'step')} is as long as the run of "
        f"{config.steps} or "
        f"longer: the learning rate ends at {last:.2g} and never reaches {config.learning_rate:g}"
    )


def learning_rate_share(config: TrainConfig, step: int) -> float:
    """Share of the highest learning rate at ``step``: a linear warm-up, then the schedule.

    ``cosine`` is half a cosine down; ``wsd`` (warm-up, stable, decay) stays at the peak and falls
    linearly over the last ``decay_share`` of the steps. The peak is reached at the first step after
    the warm-up; the last step has ``final_learning_rate_share`` of it. A warm-up longer than the
    run never reaches the peak.
    """
    if step < config.warmup_steps:
        return (step + 1) / (config.warmup_steps + 1)
    start = _fall_begins(config)
    last = max(1, config.steps - 1 - start)
    progress = min(1.0, max(0.0, (step - start) / last))
    final = config.final_learning_rate_share
    fall = progress if config.schedule == "wsd" else 0.5 * (1 - math.cos(math.pi * progress))
    return 1 - (1 - final) * fall


def _fall_begins(config: TrainConfig) -> int:
    """The last step at the peak, from which the learning rate falls."""
    if config.schedule != "wsd":
        return config.warmup_steps
    decay_steps = max(1, round(config.decay_share * config.steps))
    return max(config.warmup_steps, config.steps - 1 - decay_steps)


def stable_steps(config: TrainConfig) -> int | None:
    """After how many steps a run of the schedule ``wsd`` is what a longer one would be, at most.

    The next step has the peak of the learning rate in both. None for a run that does not get there,
    or whose steps depend on how many there are.
    """
    steps = _fall_begins(config)
    depends = config.schedule != "wsd" or config.rounds_schedule
    return None if depends or not 0 < steps < config.steps else steps
