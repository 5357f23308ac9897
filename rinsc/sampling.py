"""Choosing tokens from logits: the one sampling rule that every runtime shares.

Needs numpy alone, so that a model in ONNX Runtime generates without PyTorch installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rinsc.errors import CheckpointError, Problem, UsageError
from rinsc.scalars import real, whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Logits = npt.NDArray[np.floating]

MAX_SEED = (1 << 63) - 1  # what every library that draws numbers takes
_NUMBERS: dict[str, tuple[Callable[[object], int | float | None], str]] = {
    "temperature": (real, "must be a number"),
    "top_p": (real, "must be a number"),
    "top_k": (whole, "must be a whole number"),
    "seed": (whole, "must be a whole number"),
}
_MAY_BE_NONE = ("top_k", "top_p")


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    ``temperature`` 0 takes the most likely token; ``top_k`` keeps only so many candidates (None:
    all), and of those ``top_p`` the likeliest until their probability reaches it (None: all; the
    nucleus of arXiv 1904.09751, section 3.1); the same ``seed`` draws the same tokens.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        for name, (number, rule) in _NUMBERS.items():
            setting = getattr(self, name)
            if setting is None and name in _MAY_BE_NONE:
                continue
            value = number(setting)
            if value is None:
                problems.append(
                    _problem(name, f"{rule}, not {setting!r:.40}", "give one, such as 1")
                )
            object.__setattr__(self, name, value)
        if problems:
            raise UsageError.of(*problems)
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            rule = "must be a finite number of at least 0"
            problems.append(_problem("temperature", rule, "0 takes the likeliest token"))
        if self.top_k is not None and self.top_k < 1:
            problems.append(_problem("top_k", "must be at least 1", "leave it out for all"))
        if self.top_p is not None and not 0 < self.top_p <= 1:
            rule = "must be above 0 and at most 1"
            problems.append(_problem("top_p", rule, "leave it out for all candidates"))
        if not 0 <= self.seed <= MAX_SEED:
            problems.append(
                _problem("seed", "must be from 0 to 2**63 - 1", "give a smaller number")
            )
        if problems:
            raise UsageError.of(*problems)


def checked_seed(number: int) -> int:
    """A seed as Python's own number; raises `UsageError` for what is none."""
    return Sampling(seed=number).seed


def sample_next(logits: Logits, sampling: Sampling, rng: np.random.Generator) -> int:
    """One token id drawn from ``logits`` of shape ``(vocab,)``.

    Temperature 0 returns the first of the largest logits and draws nothing from ``rng``. Raises
    `CheckpointError` for logits that are not numbers.
    """
    import numpy as np

    best = int(logits.argmax())  # of numbers and NaN, a NaN
    if not math.isfinite(logits[best]):
        message = "the model gives logits that are not numbers"
        hint = "its weights are damaged, or too large for its precision; train or export it again"
        raise CheckpointError("bad-logits", message, hint=hint)
    if sampling.temperature == 0:
        return best
    candidates, weights = kept_candidates(np.asarray(logits, dtype=np.float64), sampling)
    return int(rng.choice(candidates, p=weights / weights.sum()))


def kept_candidates(
    scores: npt.NDArray[np.float64], sampling: Sampling
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """The ids that are drawn from and their weights, of scores ``(vocab,)``, above temperature 0.

    Of equal scores the first counts as the likelier.
    """
    import numpy as np

    top_p = sampling.top_p if sampling.top_p != 1 else None
    candidates = np.arange(scores.size)
    if top_p is not None or (sampling.top_k is not None and sampling.top_k < scores.size):
        candidates = np.argsort(-scores, kind="stable")[: sampling.top_k]
    chosen = scores[candidates]
    # The largest score is taken off before the division, so that no weight overflows.
    with np.errstate(over="ignore"):
        weights = np.exp((chosen - chosen.max()) / sampling.temperature)
    if top_p is not None:
        reached = np.cumsum(weights)
        count = int(np.searchsorted(reached, top_p * reached[-1])) + 1
        candidates, weights = candidates[:count], weights[:count]
    return candidates, weights


def _problem(name: str, message: str, hint: str) -> Problem:
    return Problem(code="bad-sampling", message=f"{name} {message}", hint=hint)
