"""How a model is trained: one frozen record, checked as a whole, kept with the run as TOML."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Literal, get_args, get_type_hints

from rinsc.cost.memory import Checkpointing
from rinsc.errors import Problem, SpecError, did_you_mean, plural
from rinsc.formats import TrainingPrecision
from rinsc.graph import Rounds
from rinsc.graph.rounds import MAX_ROUNDS
from rinsc.sampling import MAX_SEED
from rinsc.scalars import plain
from rinsc.spec.checks import shown
from rinsc.storage.files import parse_toml

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


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; raises SpecError naming every bad value.

    ``rounds`` is one number for every repeat, numbers by name, or None; repeats that it does not
    set run what the signature says, which may be drawn for each step. ``rounds_schedule`` grows
    them over the run instead: pairs of a share of the steps and the rounds of every repeat from
    there on. ``precision`` bf16 runs the matrix products under autocast and keeps weights and
    optimizer in fp32. ``compile`` compiles each block with torch.compile. A step is computed in
    ``accumulate`` parts of equal size. ``checkpointing`` recomputes activations in the backward
    pass, of a visit or of a whole round at a time. ``optimizer`` muon is for the matrices of
    blocks, AdamW for the rest. ``decay_share`` is the last part of a ``wsd`` schedule.
    ``learning_rate_visits_power`` p gives a block that is visited v times the learning rate
    times v to the power -p, and ``init_depth`` says whether the residual weights start scaled for
    the layers that are executed or for those that are stored; both are choices of ours.
    ``packing`` documents keeps attention and targets within a
    document. Evaluations during training look at ``eval_windows`` windows of held-out text, the
    result at all of it. The last ``keep`` checkpoints are kept.
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
    precision: TrainingPrecision = "fp32"
    log_every: int = 10
    eval_every: int = 100
    eval_windows: int = 64
    checkpoint_every: int = 200
    rounds: Rounds = None
    compile: bool = False
    accumulate: int = 1
    checkpointing: Checkpointing = "none"
    optimizer: Literal["adamw", "muon"] = "adamw"
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay_share: float = 0.2
    rounds_schedule: tuple[tuple[float, int], ...] = ()
    packing: Literal["across", "documents"] = "across"
    init_depth: Literal["executed", "stored"] = "executed"
    learning_rate_visits_power: float = 0.0
    keep: int = 2

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        problems = [
            Problem(
                code="bad-config",
                message=f"'{key}' {rule}, not {shown(getattr(self, key))}",
                place=key,
                hint=_default_hint(key),
            )
            for key, rule in broken_rules(self)
        ]
        if problems:
            raise SpecError.of(*problems)

    @property
    def batch_tokens(self) -> int:
        return self.batch_sequences * self.sequence_length

    @property
    def evaluation_rounds(self) -> Rounds:
        """What held-out text is evaluated at: as trained, or as a schedule of rounds ends."""
        return self.rounds_schedule[-1][1] if self.rounds_schedule else self.rounds

    @property
    def tokens(self) -> int:
        """Tokens trained on over the whole run."""
        return self.steps * self.batch_tokens


def _plain(value: Any) -> Any:
    """A setting with Python's own numbers in place of those of other libraries."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return tuple(map(_plain, value)) if isinstance(value, tuple) else plain(value)


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
        values = parse_toml(text)
    except ValueError as error:
        hint = "write lines such as: steps = 1000"
        raise SpecError("bad-toml", str(error), place=place, hint=hint) from error
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
    given = {key: _tuples(value) for key, value in given.items()}
    try:
        config = TrainConfig(**given)
    except SpecError as error:
        placed = [replace(problem, place=_at(place, problem.place)) for problem in error.problems]
        raise SpecError.of(*unknown, *placed) from error
    if unknown:
        raise SpecError.of(*unknown)
    return config


def _tuples(value: Any) -> Any:
    """Lists of a TOML file as tuples, the inner ones too."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _at(place: str | None, key: str | None) -> str | None:
    """Where a setting stands: in a file, or among the arguments."""
    return key if place is None else f"{place}: {key}"


def _default_hint(key: str) -> str:
    default = getattr(TrainConfig, key)
    if key == "rounds_schedule":
        return "such as [[0.0, 1], [0.5, 3]]"
    return "leave it out for what the signature says" if default is None else f"such as {default}"
