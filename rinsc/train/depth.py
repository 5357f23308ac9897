"""How deep each training step runs: a pure function of seed and step, so that resuming needs no
state, and so that every rank draws the same."""

from __future__ import annotations

from collections.abc import Mapping

from rinsc.cost import training_flops
from rinsc.cost.flops import set_rounds
from rinsc.graph import Rounds, build_graph
from rinsc.graph.law import draw_rounds, drawn_loops
from rinsc.spec import ModelSpec
from rinsc.train.config import TrainConfig

NOISE_SEEDS = 2**31 - 1  # from 1 up: 0 is the noise of evaluation
NOISE_STRIDE = 1_000_003  # between seeds, so that runs of neighbouring seeds see other noise


class Depths:
    """The rounds of each step and what they cost."""

    def __init__(self, spec: ModelSpec, config: TrainConfig) -> None:
        self._graph = build_graph(spec)
        self._config = config
        self._set = set_rounds(self._graph, config.rounds)
        self.drawn = [loop.name for loop in drawn_loops(self._graph) if loop.name not in self._set]
        self._flops: dict[tuple[tuple[str, int], ...], int] = {}

    def rounds(self, step: int) -> Rounds:
        """What the module is given in ``step``, counted from 0.

        Repeats that the settings fix run so; the others are drawn where their options say so.
        """
        if not self.drawn:
            return self._config.rounds
        return draw_rounds(self._graph, self._config.seed, step) | self._set

    def drawn_rounds(self, step: int) -> Mapping[str, int] | None:
        """The rounds of the step by repeat, of those that are drawn; None where none are."""
        rounds = self.rounds(step)
        if not self.drawn or not isinstance(rounds, Mapping):
            return None
        return {name: rounds[name] for name in self.drawn}

    def flops(self, step: int) -> int:
        """Training FLOPs of a step, at the rounds that it runs."""
        rounds = self.rounds(step)
        key = tuple(rounds.items()) if isinstance(rounds, Mapping) else ()
        if key not in self._flops:
            self._flops[key] = training_flops(
                self._graph,
                self._config.sequence_length,
                batch=self._config.batch_sequences,
                rounds=rounds,
            )
        return self._flops[key]

    def flops_until(self, step: int) -> int:
        """Training FLOPs of all steps before ``step``."""
        if not self.drawn:
            return step * self.flops(0)
        return sum(self.flops(earlier) for earlier in range(step))

    def noise_seed(self, step: int) -> int:
        """The seed of the noise that loops start from in ``step``: another one each step."""
        return 1 + (self._config.seed * NOISE_STRIDE + step) % NOISE_SEEDS
