"""Whether recursion was worth its training: one run against a plain baseline, as a verdict.

"No-regret" is a word of arXiv 2502.07503 (abstract): a recursive model that is trained with as many
FLOPs is better than its baseline even where it runs one round, so that training FLOPs, parameters
and inference FLOPs are all matched. The paper gets there with stochastic recursion and linear
adapters. The interval, the tolerance and the words of the verdict are choices of ours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from rinsc.errors import Problem, UsageError
from rinsc.train.evaluate import BlockLosses
from rinsc.train.finished import FinishedRun
from rinsc.train.paired import Difference, paired_difference

Equal: TypeAlias = Literal["training FLOPs", "parameters", "inference FLOPs"]
LossesAt: TypeAlias = Callable[[Mapping[str, int]], BlockLosses]

TOLERANCE = 0.01  # parameters and inference FLOPs that differ by less count as equal
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
    """Three comparisons, the first of which, at one round, says whether there is regret."""

    one_round: Comparison
    as_trained: Comparison
    nearest: Comparison

    @property
    def comparisons(self) -> tuple[Comparison, Comparison, Comparison]:
        return self.one_round, self.as_trained, self.nearest

    @property
    def is_regret(self) -> bool:
        """Whether one round is worse than the baseline by more than the noise of the text."""
        return self.one_round.difference.reading == "worse"

    @property
    def is_equal(self) -> bool:
        """Whether the runs spent the same training FLOPs, to within one step."""
        return self.one_round.is_equal

    @property
    def text(self) -> str:
        """The verdict in a line."""
        found, reading = self.one_round.difference, self.one_round.difference.reading
        head = "regret" if self.is_regret else "no regret"
        if not self.is_equal:
            head = f"no verdict: not at equal training FLOPs, the run spent {self._spent}"
        if reading == "no difference can be told":
            words = f"{head}: one round and the baseline differ by {found.bits_per_byte:+.4f} bits "
            words += "per byte, and no difference can be told"
        else:
            words = f"{head}: one round is {reading} than the baseline by "
            words += f"{abs(found.bits_per_byte):.4f} bits per byte"
        return words

    @property
    def _spent(self) -> str:
        """The run's training FLOPs against the baseline's, in words."""
        if self.one_round.excess >= 1:
            return f"{1 + self.one_round.excess:.3g} times as many"
        more = "more" if self.one_round.excess > 0 else "fewer"
        return f"{self.one_round.percent.lstrip('+-')} % {more}"


def judge(run: FinishedRun, baseline: FinishedRun, ours: LossesAt, theirs: BlockLosses) -> Verdict:
    """Compare ``run`` with ``baseline``, which runs as it was trained.

    Equal training FLOPs: at one round. Equal parameters: at the rounds that its result is of. Equal
    inference FLOPs: at the number whose forward pass costs most nearly what the baseline's does.
    ``ours`` gives the losses at some rounds on the blocks of ``theirs``. Raises UsageError where
    the run has no repeat.
    """
    require_repeat(run)
    step = max(run.step_flops, baseline.step_flops)
    params = run.stored_params, baseline.stored_params
    once, trained, near = judged_rounds(run, baseline)
    length = common_length(run, baseline)
    flops = baseline.forward_flops_per_token(baseline.rounds, length)
    near_flops = run.forward_flops_per_token(near, length), flops

    def compare(
        equal: Equal, rounds: Mapping[str, int], sizes: tuple[int, int], tolerance: int
    ) -> Comparison:
        return Comparison(equal, rounds, *sizes, tolerance, paired_difference(ours(rounds), theirs))

    return Verdict(
        compare(
            *("training FLOPs", once),
            *((run.training_flops, baseline.training_flops), step),
        ),
        compare("parameters", trained, params, int(TOLERANCE * params[1])),
        compare("inference FLOPs", near, near_flops, int(TOLERANCE * flops)),
    )


def require_repeat(run: FinishedRun) -> None:
    """Raises UsageError for a run whose rounds cannot be regretted."""
    if not run.rounds:
        message = f"'{run.signature}' has no repeat, so that it has no rounds to regret"
        hint = "name the recursive run first, and its baseline with --baseline"
        raise UsageError(Problem("no-repeat", message, place=str(run.folder.path), hint=hint))


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
