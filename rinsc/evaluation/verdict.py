"""Whether recursion paid off: two models on the same held-out data, and how sure it is.

"No-regret" is a word of arXiv 2502.07503 (abstract): a recursive model that is trained with as many
FLOPs is better than its baseline even where it runs one round, so that training FLOPs, parameters
and inference FLOPs are all matched. The paper gets there with stochastic recursion and linear
adapters. The interval, the margin, the tolerance and the words of the verdict are choices of ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from rinsc.errors import DataError, UsageError, plural, setting
from rinsc.objectives import Figure, Pieces, objective
from rinsc.training.finished import FinishedRun

RESAMPLES = 2000
CONFIDENCE = 0.95
LEAST_BLOCKS = 10  # a resample of fewer says little

Reading: TypeAlias = Literal["better", "worse", "no difference can be told"]


@dataclass(frozen=True)
class Difference:
    """A ``figure`` of a model and of its baseline, and the 95 % interval of their difference.

    All on the same ``blocks``; the interval is infinite where they are fewer than `LEAST_BLOCKS`.
    """

    ours: float
    theirs: float
    low: float
    high: float
    blocks: int
    figure: Figure

    @property
    def value(self) -> float:
        """The model's less the baseline's."""
        return self.ours - self.theirs

    @property
    def worse_by(self) -> tuple[float, float]:
        """The interval of how much worse the model is, whichever way the figure counts."""
        return (self.low, self.high) if self.figure.less_is_better else (-self.high, -self.low)

    @property
    def reading(self) -> Reading:
        """An interval with 0 in it tells nothing."""
        low, high = self.worse_by
        if low > 0:
            return "worse"
        return "better" if high < 0 else "no difference can be told"


def paired_difference(ours: Pieces, theirs: Pieces, figure: Figure, *, seed: int = 0) -> Difference:
    """The difference on the pieces that both have in full; the same every time.

    Both must be of the same held-out data, cut into the same pieces. Raises DataError where they
    have none in common.
    """
    common = min(len(ours.totals), len(theirs.totals))
    both = ours.is_whole[:common] & theirs.is_whole[:common]
    ours, theirs = ours.only(both), theirs.only(both)
    blocks = len(ours.totals)
    if blocks == 0:
        hint = "use more text, or shorter sequences"
        raise DataError("too-little-text", "the runs have no text in common", hint=hint)
    values = ours.figure, theirs.figure
    if not all(map(math.isfinite, values)):
        return Difference(*values, *_without_numbers(*values), blocks, figure)
    if blocks < LEAST_BLOCKS:
        return Difference(*values, -math.inf, math.inf, blocks, figure)
    rng = np.random.default_rng(seed)
    draws = np.empty(RESAMPLES)
    for index in range(RESAMPLES):
        times = np.bincount(rng.integers(0, blocks, blocks), minlength=blocks)
        draws[index] = ours.figure_of(times) - theirs.figure_of(times)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(draws, (tail, 1 - tail))
    return Difference(*values, float(low), float(high), blocks, figure)


def _without_numbers(ours: float, theirs: float) -> tuple[float, float]:
    """The interval where a model gives no numbers: it is worse than one that does."""
    low = math.inf if math.isfinite(theirs) else -math.inf
    high = -math.inf if math.isfinite(ours) else math.inf
    return low, high


Outcome: TypeAlias = Literal["no regret", "regret", "undecided"]
Equal: TypeAlias = Literal["training FLOPs", "parameters", "inference FLOPs"]
PiecesAt: TypeAlias = Callable[[Mapping[str, int]], Pieces]

TOLERANCE = 0.01  # parameters and inference FLOPs that differ by less count as equal
SEEDS = "one seed each: others may differ by more"
MOST_ROUNDS = 32  # that are looked at for the nearest inference FLOPs


@dataclass(frozen=True)
class Comparison:
    """The run at some rounds against its baseline; ``ours`` and ``theirs`` are to be equal."""

    equal: Equal
    rounds: Mapping[str, int]
    ours: int
    theirs: int
    tolerance: int
    difference: Difference

    @property
    def is_equal(self) -> bool:
        return abs(self.ours - self.theirs) <= self.tolerance

    @property
    def excess(self) -> float:
        """By which share of the baseline's the run has more; negative where it has less."""
        return (self.ours - self.theirs) / self.theirs

    @property
    def percent(self) -> str:
        """The excess with its sign: two digits, all of them from ten percent on."""
        percent = 100 * self.excess
        return f"{percent:+,.0f}" if abs(percent) >= 9.95 else f"{percent:+.2g}"


@dataclass(frozen=True)
class Verdict:
    """Three comparisons, the first of which, at one round, says whether there is regret.

    ``margin`` is by how much one round may be worse and still leave no regret, in the unit of the
    objective's figure: in bits per byte, or as a share of the pictures.
    """

    one_round: Comparison
    as_trained: Comparison
    nearest: Comparison
    margin: float = 0.0
    objective: str = "next_token"
    are_continued: bool = False

    @property
    def comparisons(self) -> tuple[Comparison, Comparison, Comparison]:
        return self.one_round, self.as_trained, self.nearest

    @property
    def outcome(self) -> Outcome:
        """No regret where the whole interval is below the margin, regret where it is above."""
        if self.undecided_because is not None:
            return "undecided"
        _, high = self.one_round.difference.worse_by
        return "no regret" if high < self.margin else "regret"

    @property
    def is_equal(self) -> bool:
        """Whether the runs spent the same training FLOPs, to within one step."""
        return self.one_round.is_equal

    @property
    def is_itself(self) -> bool:
        """Whether run and baseline are one model: every block of the text costs both the same."""
        difference = self.as_trained.difference
        return difference.ours == difference.theirs and difference.low == difference.high == 0

    @property
    def undecided_because(self) -> str | None:
        """Why neither outcome holds, in words; None where one does."""
        difference = self.one_round.difference
        if self.is_itself:
            return "the run and its baseline are the same model"
        if not self.is_equal:
            return f"not at equal training FLOPs, the run spent {self._spent}"
        is_unknown = math.isinf(difference.low) and math.isinf(difference.high)
        if difference.blocks < LEAST_BLOCKS and is_unknown:
            trained_for = objective(self.objective)
            count = plural(difference.blocks, trained_for.piece)
            return f"{trained_for.too_few}, {count} of at least {LEAST_BLOCKS}"
        low, high = difference.worse_by
        if high < self.margin or low > self.margin:
            return None
        if not math.isfinite(difference.value):
            return "the losses are no numbers"
        margin = f"the margin of {self.margin:g}" if self.margin else "0"
        return f"the interval from {difference.low:+.4f} to {difference.high:+.4f} holds {margin}"

    @property
    def text(self) -> str:
        """The verdict in a line."""
        reason, measured = self.undecided_because, _in_words(self.one_round.difference)
        if reason is not None:
            return f"undecided: {reason}; {measured}"
        if self.margin:
            measured += f", at a margin of {self.margin:g}"
        return f"{self.outcome}: {measured} ({SEEDS})"

    @property
    def _spent(self) -> str:
        """The run's training FLOPs against the baseline's, in words."""
        if self.one_round.excess >= 1:
            return f"{1 + self.one_round.excess:.3g} times as many"
        more = "more" if self.one_round.excess > 0 else "fewer"
        return f"{self.one_round.percent.lstrip('+-')} % {more}"


def _in_words(difference: Difference) -> str:
    """One round beside the baseline."""
    if not math.isfinite(difference.value):
        without = "one round" if not math.isfinite(difference.ours) else "the baseline"
        return f"{without} gives no numbers"
    if difference.value == 0:
        return "one round is as good as the baseline"
    than = "better" if (difference.value < 0) == difference.figure.less_is_better else "worse"
    by = difference.figure.apart(abs(difference.value))
    return f"one round is {than} than the baseline by {by}"


def judge(
    run: FinishedRun,
    baseline: FinishedRun,
    ours: PiecesAt,
    theirs: Pieces,
    *,
    margin: float = 0.0,
) -> Verdict:
    """Compare ``run`` with ``baseline``, which runs as it was trained.

    Equal training FLOPs: at one round. Equal parameters: at the rounds that its result is of. Equal
    inference FLOPs: at the number whose forward pass costs most nearly what the baseline's does.
    ``ours`` gives the figure at some rounds on the pieces of ``theirs``. Raises UsageError where
    the run has no repeat, and for a margin below 0.
    """
    require_repeat(run)
    require_margin(margin)
    continued = are_continued(run, baseline)
    spent = run.training_flops, baseline.training_flops
    if continued:
        spent = run.own_training_flops, baseline.own_training_flops
    trained_for = run.config.objective
    figure = objective(trained_for).figures[0]
    one_step = max(run.step_flops, baseline.step_flops)
    params = run.stored_params, baseline.stored_params
    once, trained, near = judged_rounds(run, baseline)
    length = common_length(run, baseline)
    flops = baseline.forward_flops_per_token(baseline.rounds, length)
    near_flops = run.forward_flops_per_token(near, length), flops

    def compare(
        equal: Equal, rounds: Mapping[str, int], sizes: tuple[int, int], tolerance: int
    ) -> Comparison:
        difference = paired_difference(ours(rounds), theirs, figure)
        return Comparison(equal, rounds, *sizes, tolerance, difference)

    return Verdict(
        compare("training FLOPs", once, spent, one_step),
        compare("parameters", trained, params, int(TOLERANCE * params[1])),
        compare("inference FLOPs", near, near_flops, int(TOLERANCE * flops)),
        margin,
        trained_for,
        continued,
    )


def are_continued(run: FinishedRun, baseline: FinishedRun) -> bool:
    """Whether both began with weights of which not all training is known: then the FLOPs since are
    compared."""
    sides = (run, baseline)
    began = all(side.folder.source.exists() for side in sides)
    return began and not all(side.is_training_known for side in sides)


def require_margin(margin: float) -> None:
    """Raises UsageError for a margin that is no number from 0 up."""
    if not (math.isfinite(margin) and margin >= 0):
        message = f"{setting('margin')} must be a number of at least 0, not {margin}"
        hint = "write by how much one round may be worse, as 0.005 bits per byte"
        raise UsageError("usage", message, hint=hint)


def require_repeat(run: FinishedRun) -> None:
    """Raises UsageError for a run whose rounds cannot be regretted."""
    if not run.rounds:
        message = f"'{run.signature}' has no repeat, so that it has no rounds to regret"
        hint = f"name the recursive run first, and its baseline with {setting('baseline')}"
        raise UsageError("no-repeat", message, place=str(run.folder.path), hint=hint)


def judged_rounds(run: FinishedRun, baseline: FinishedRun) -> tuple[dict[str, int], ...]:
    """The rounds that `judge` looks at."""
    length = common_length(run, baseline)
    flops = baseline.forward_flops_per_token(baseline.rounds, length)
    return one_round(run), run.rounds, nearest_rounds(run, flops, length)


def common_length(run: FinishedRun, baseline: FinishedRun) -> int:
    """The sequence at which the FLOPs of a token are compared: the shorter of both."""
    return min(run.sequence_length, baseline.sequence_length)


def one_round(run: FinishedRun) -> dict[str, int]:
    """Every repeat once."""
    return dict.fromkeys(run.rounds, 1)


def nearest_rounds(
    run: FinishedRun, flops_per_token: int, sequence_length: int | None = None
) -> dict[str, int]:
    """One number for every repeat, whose forward pass costs most nearly so much; the fewest."""
    most = max(MOST_ROUNDS, *run.rounds.values())
    return min(
        (dict.fromkeys(run.rounds, count) for count in range(1, most + 1)),
        key=lambda rounds: abs(
            run.forward_flops_per_token(rounds, sequence_length) - flops_per_token
        ),
    )
