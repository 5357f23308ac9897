"""How a model is trained: one frozen record, checked as a whole, kept with the run as TOML."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from rinsc.cost.memory import Checkpointing, Precision
from rinsc.errors import Problem, SpecError, did_you_mean
from rinsc.files import parse_toml
from rinsc.graph import Rounds
from rinsc.scalars import plain
from rinsc.spec.checks import shown
from rinsc.train.rules import broken_rules


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
    precision: Precision = "fp32"
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
            raise SpecError(*problems)

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
    given = {key: _tuples(value) for key, value in given.items()}
    try:
        config = TrainConfig(**given)
    except SpecError as error:
        placed = [replace(problem, place=_at(place, problem.place)) for problem in error.problems]
        raise SpecError(*unknown, *placed) from error
    if unknown:
        raise SpecError(*unknown)
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
