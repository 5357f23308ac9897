"""How a model is trained: one frozen record, checked as a whole, kept with the run as TOML."""

from __future__ import annotations

import dataclasses
import json
import math
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

from rinsc.cost.memory import Precision
from rinsc.errors import Problem, SpecError, did_you_mean
from rinsc.graph import Rounds
from rinsc.sampling import MAX_SEED
from rinsc.spec.checks import shown

PRECISIONS = get_args(Precision)
MAX_BATCH_TOKENS = 1 << 24  # keeps a typing slip from filling the memory
MAX_STEPS = 10**9  # no run comes near


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; raises SpecError naming every bad value.

    ``rounds`` is one number for every repeat, numbers by name, or None; repeats that it does not
    set run what the signature says, which may be drawn for each step. ``precision`` bf16 runs the
    matrix products under autocast and keeps weights and optimizer in fp32. ``compile`` compiles
    each block with torch.compile. Evaluations during training look at ``eval_windows`` windows of
    held-out text, the result at all of it.
    """

    steps: int = 1000
    batch_sequences: int = 16
    sequence_length: int = 256
    learning_rate: float = 2e-3
    final_learning_rate_share: float = 0.1
    warmup_steps: int = 50
    weight_decay: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float = 1.0
    seed: int = 0
    precision: Precision = "fp32"
    log_every: int = 10
    eval_every: int = 100
    eval_windows: int = 64
    checkpoint_every: int = 200
    rounds: Rounds = None
    compile: bool = False

    def __post_init__(self) -> None:
        problems = [
            Problem(
                code="bad-config",
                message=f"'{key}' {rule}, not {shown(getattr(self, key))}",
                place=key,
                hint=_default_hint(key),
            )
            for key, rule in _broken_rules(self)
        ]
        if problems:
            raise SpecError(*problems)

    @property
    def batch_tokens(self) -> int:
        return self.batch_sequences * self.sequence_length

    @property
    def tokens(self) -> int:
        """Tokens trained on over the whole run."""
        return self.steps * self.batch_tokens


def config_to_toml(config: TrainConfig) -> str:
    """The settings as TOML, in the order of the fields; None is left out."""
    values = dataclasses.asdict(config).items()
    return "".join(f"{key} = {_toml(value)}\n" for key, value in values if value is not None)


def _toml(value: object) -> str:
    """A value in TOML; scalars, lists and the keys of tables are written there as in JSON."""
    if isinstance(value, Mapping):
        pairs = (f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items())
        return f"{{ {', '.join(pairs)} }}"
    return json.dumps(value)


def config_from_toml(text: str, place: str | None = None) -> TrainConfig:
    """Read the settings back; ``place`` names the file in errors. Raises SpecError."""
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        hint = "write lines such as: steps = 1000"
        raise SpecError(Problem("bad-toml", str(error), place=place, hint=hint)) from error
    return config_from_mapping(values, place)


def config_from_mapping(values: Mapping[str, Any], place: str | None = None) -> TrainConfig:
    """The settings from plain values; raises SpecError for unknown keys and bad values."""
    known = [field.name for field in dataclasses.fields(TrainConfig)]
    unknown = [
        Problem(
            code="unknown-key",
            message=f"'{key}' is not a training setting",
            place=_at(place, key),
            hint=did_you_mean(key, known),
        )
        for key in values
        if key not in known
    ]
    given = {key: value for key, value in values.items() if key in known}
    if isinstance(given.get("betas"), list):
        given["betas"] = tuple(given["betas"])
    try:
        config = TrainConfig(**given)
    except SpecError as error:
        placed = [replace(problem, place=_at(place, problem.place)) for problem in error.problems]
        raise SpecError(*unknown, *placed) from error
    if unknown:
        raise SpecError(*unknown)
    return config


def _at(place: str | None, key: str | None) -> str | None:
    """Where a setting stands: in a file, or among the arguments."""
    return key if place is None else f"{place}: {key}"


def _default_hint(key: str) -> str:
    default = getattr(TrainConfig, key)
    return "leave it out for what the signature says" if default is None else f"such as {default}"


_COUNTS = ("steps", "batch_sequences", "sequence_length", "log_every", "eval_every")
_MORE_COUNTS = ("eval_windows", "checkpoint_every")


def _broken_rules(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Key and rule of each setting that is not as it should be."""
    for key in (*_COUNTS, *_MORE_COUNTS):
        if not _is_int(getattr(config, key), 1):
            yield key, "must be a whole number of at least 1"
    if _is_int(config.steps, MAX_STEPS + 1):
        yield "steps", f"must be at most {MAX_STEPS}"
    if not _are_rounds(config.rounds):
        yield "rounds", "must be a whole number of at least 1, or such numbers by repeat"
    if not _is_int(config.warmup_steps, 0):
        yield "warmup_steps", "must be a whole number of at least 0"
    if not _is_int(config.seed, 0) or config.seed > MAX_SEED:
        yield "seed", "must be a whole number from 0 to 2**63 - 1"
    for key in ("learning_rate", "clip"):
        if not (_is_number(getattr(config, key)) and getattr(config, key) > 0):
            yield key, "must be a number above 0"
    if not (_is_number(config.weight_decay) and config.weight_decay >= 0):
        yield "weight_decay", "must be a number of at least 0"
    if not (
        _is_number(config.final_learning_rate_share) and 0 <= config.final_learning_rate_share <= 1
    ):
        yield "final_learning_rate_share", "must be a number from 0 to 1"
    if not _are_betas(config.betas):
        yield "betas", "must be two numbers from 0 to below 1"
    if config.precision not in PRECISIONS:
        yield "precision", f"must be one of {', '.join(PRECISIONS)}"
    if not isinstance(config.compile, bool):
        yield "compile", "must be true or false"
    sizes = (config.batch_sequences, config.sequence_length)
    if all(_is_int(size, 1) for size in sizes) and math.prod(sizes) > MAX_BATCH_TOKENS:
        yield "batch_sequences", f"times sequence_length must be at most {MAX_BATCH_TOKENS}"


def _is_int(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _are_rounds(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(isinstance(name, str) and _is_int(count, 1) for name, count in value.items())
    return value is None or _is_int(value, 1)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _are_betas(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return all(_is_number(beta) and 0 <= beta < 1 for beta in value)
