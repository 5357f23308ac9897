"""Choosing tokens from logits: the one sampling rule that every runtime shares.

Needs numpy alone, so that a model in ONNX Runtime generates without PyTorch installed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from rinsc.errors import Problem, UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Logits = npt.NDArray[np.floating]

Cache = TypeVar("Cache")

MAX_SEED = (1 << 63) - 1  # what every library that draws numbers takes


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    ``temperature`` 0 takes the most likely token; ``top_k`` keeps only so many candidates
    (None: all); the same ``seed`` draws the same tokens.
    """

    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            rule = "must be a finite number of at least 0"
            problems.append(_problem("temperature", rule, "0 takes the likeliest token"))
        if self.top_k is not None and self.top_k < 1:
            problems.append(_problem("top_k", "must be at least 1", "leave it out for all"))
        if not 0 <= self.seed <= MAX_SEED:
            problems.append(
                _problem("seed", "must be from 0 to 2**63 - 1", "give a smaller number")
            )
        if problems:
            raise UsageError(*problems)


def sample_next(
    logits: Logits, temperature: float, top_k: int | None, rng: np.random.Generator
) -> int:
    """One token id drawn from ``logits`` of shape ``(vocab,)``.

    Temperature 0 returns the first of the largest logits and draws nothing from ``rng``.
    """
    import numpy as np

    scores = np.asarray(logits, dtype=np.float64)
    if temperature == 0:
        return int(scores.argmax())
    candidates = np.arange(scores.size)
    if top_k is not None and top_k < scores.size:
        # A stable order, so that ties are settled the same way everywhere.
        candidates = np.argsort(-scores, kind="stable")[:top_k]
    chosen = scores[candidates]
    # The largest score is taken off before the division, so that no weight overflows.
    with np.errstate(over="ignore"):
        weights = np.exp((chosen - chosen.max()) / temperature)
    return int(rng.choice(candidates, p=weights / weights.sum()))


@dataclass
class CachedLogits(Generic[Cache]):
    """The logits after a sequence, from a cache of the sequence without its last tokens.

    ``step`` maps new ids and the cache of those before them (None at the start) to the logits
    ``(vocab,)`` after them and the cache of all. A sequence that does not continue the last one,
    such as a window that has moved on, is run from its start.
    """

    step: Callable[[Sequence[int], Cache | None], tuple[Logits, Cache]]
    _seen: list[int] = field(default_factory=list)
    _cache: Cache | None = None

    def __call__(self, ids: Sequence[int]) -> Logits:
        known = len(self._seen)
        continues = 0 < known < len(ids) and list(ids[:known]) == self._seen
        past = self._cache if continues else None
        logits, self._cache = self.step(ids[known:] if continues else ids, past)
        self._seen = list(ids)
        return logits


def continue_tokens(
    next_logits: Callable[[Sequence[int]], Logits],
    prompt: Sequence[int],
    new_tokens: int,
    context: int,
    sampling: Sampling,
) -> list[int]:
    """The ``new_tokens`` ids that follow ``prompt``.

    ``next_logits`` maps the last ids, at most ``context`` of them, to the logits ``(vocab,)`` of
    the token after them. Raises UsageError for an empty prompt or a negative count.
    """
    import numpy as np

    if not prompt:
        raise UsageError(_problem("prompt", "is empty", "give at least one character"))
    if new_tokens < 0:
        raise UsageError(_problem("new tokens", "must be at least 0", "say how many to add"))
    rng = np.random.default_rng(sampling.seed)
    ids = list(prompt)
    for _ in range(new_tokens):
        logits = next_logits(ids[-context:])
        ids.append(sample_next(logits, sampling.temperature, sampling.top_k, rng))
    return ids[len(prompt) :]


def _problem(name: str, message: str, hint: str) -> Problem:
    return Problem(code="bad-sampling", message=f"{name} {message}", hint=hint)
