"""The rules of training settings: which values they take, each rule in words."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, get_args, get_type_hints

from rinsc.graph.rounds import MAX_ROUNDS
from rinsc.sampling import MAX_SEED
from rinsc.syntax.problems import plural

if TYPE_CHECKING:
    from rinsc.train.config import TrainConfig

MAX_BATCH_TOKENS = 1 << 24  # keeps a typing slip from filling the memory
MAX_STEPS = 10**9  # no run comes near

_COUNTS = ("steps", "batch_sequences", "sequence_length", "log_every", "eval_every")
_MORE_COUNTS = ("eval_windows", "checkpoint_every", "accumulate", "keep")
_CHOICES = ("precision", "checkpointing", "optimizer", "schedule", "packing", "init_depth")
_SHARES = ("final_learning_rate_share", "decay_share")


def broken_rules(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Key and rule of each setting that is not as it should be."""
    for key in (*_COUNTS, *_MORE_COUNTS):
        if not _is_int(getattr(config, key), 1):
            yield key, "must be a whole number of at least 1"
    if _is_int(config.steps, MAX_STEPS + 1):
        yield "steps", f"must be at most {MAX_STEPS}"
    if not _is_int(config.warmup_steps, 0):
        yield "warmup_steps", "must be a whole number of at least 0"
    if not _is_int(config.seed, 0) or config.seed > MAX_SEED:
        yield "seed", "must be a whole number from 0 to 2**63 - 1"
    yield from _number_rules(config)
    yield from _rounds_rules(config)
    hints = get_type_hints(type(config))
    for key in _CHOICES:
        if getattr(config, key) not in get_args(hints[key]):
            yield key, f"must be one of {', '.join(get_args(hints[key]))}"
    if not isinstance(config.compile, bool):
        yield "compile", "must be true or false"
    yield from _batch_rules(config)


def _number_rules(config: TrainConfig) -> Iterator[tuple[str, str]]:
    for key in ("learning_rate", "clip"):
        if not (_is_number(getattr(config, key)) and getattr(config, key) > 0):
            yield key, "must be a number above 0"
    if not (_is_number(config.weight_decay) and config.weight_decay >= 0):
        yield "weight_decay", "must be a number of at least 0"
    for key in (*_SHARES, "learning_rate_visits_power"):
        if not (_is_number(getattr(config, key)) and 0 <= getattr(config, key) <= 1):
            yield key, "must be a number from 0 to 1"
    if not _are_betas(config.betas):
        yield "betas", "must be two numbers from 0 to below 1"


def _rounds_rules(config: TrainConfig) -> Iterator[tuple[str, str]]:
    if not _are_rounds(config.rounds):
        yield "rounds", "must be a whole number of at least 1, or such numbers by repeat"
    if not _is_schedule(config.rounds_schedule):
        rule = "must be pairs of a share and rounds, the shares growing from 0 to below 1"
        yield "rounds_schedule", rule
    elif config.rounds_schedule and config.rounds is not None:
        yield "rounds_schedule", "cannot stand beside rounds"


def _batch_rules(config: TrainConfig) -> Iterator[tuple[str, str]]:
    sizes = (config.batch_sequences, config.sequence_length)
    if all(_is_int(size, 1) for size in sizes) and math.prod(sizes) > MAX_BATCH_TOKENS:
        yield "batch_sequences", f"times sequence_length must be at most {MAX_BATCH_TOKENS}"
    parts = config.accumulate
    if _is_int(parts, 1) and _is_int(sizes[0], 1) and sizes[0] % parts:
        yield "accumulate", f"must divide the {plural(sizes[0], 'sequence')} of a batch"


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are_rounds(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_int(count, 1) for name, count in value.items())
    return value is None or _is_int(value, 1)


def _is_schedule(value: object) -> bool:
    if not isinstance(value, tuple) or not all(
        isinstance(pair, tuple) and len(pair) == 2 for pair in value
    ):
        return False
    shares = [share for share, _ in value]
    if not all(_is_number(share) and 0 <= share < 1 for share in shares):
        return False
    rounds_fit = all(_is_int(rounds, 1) and rounds <= MAX_ROUNDS for _, rounds in value)
    growing = all(left < right for left, right in pairwise(shares))
    return rounds_fit and growing and (not shares or shares[0] == 0)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # False for NaN


def _are_betas(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return all(_is_number(beta) and 0 <= beta < 1 for beta in value)
