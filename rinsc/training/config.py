"""How a model is trained: one frozen record, checked as a whole, kept with the run as TOML.

A setting is stated once, as a field: its type, default, help, rules and option. The options of
`rinsc train` follow from the fields.
"""

# ruff: noqa: RUF009  # a setting is a field with metadata, which is made once a field

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from typing import Any, Literal, TypeAlias, get_args, get_origin, get_type_hints

from rinsc.cost.memory import Checkpointing
from rinsc.errors import Problem, SpecError, did_you_mean, plural
from rinsc.formats import TrainingPrecision
from rinsc.graph import Rounds, plain_rounds
from rinsc.graph.rounds import MAX_ROUNDS
from rinsc.sampling import MAX_SEED
from rinsc.scalars import plain
from rinsc.spec.checks import shown
from rinsc.storage.files import parse_toml

MAX_BATCH_TOKENS = 1 << 24  # keeps a typing slip from filling the memory
MAX_STEPS = 10**9  # no run comes near

Rule: TypeAlias = tuple[Callable[[Any], bool], str]  # what holds of a value, and that in words


@dataclass(frozen=True)
class Setting:
    """What is said of a setting beside its type and its default.

    ``doc`` is the help of its option of `rinsc train`, and ``rules`` what a value must be. A
    setting without an ``option`` is for files and Python alone. Where ``otherwise`` says so, a run
    that is not told the setting derives it from the model or from its steps.
    """

    doc: str
    rules: tuple[Rule, ...] = ()
    option: str | None = None
    otherwise: str | None = None


def setting_of(field: dataclasses.Field[Any]) -> Setting:
    """What a field of `TrainConfig` says of itself."""
    setting: Setting = field.metadata["setting"]
    return setting


@cache
def _type_hints() -> dict[str, Any]:
    return get_type_hints(TrainConfig)


def broken_rules(config: TrainConfig) -> Iterator[tuple[str, str]]:
    """Key and rule of each setting that is not as it should be."""
    hints = _type_hints()
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        choices = get_args(hints[field.name]) if get_origin(hints[field.name]) is Literal else ()
        if choices and value not in choices:
            yield field.name, f"must be one of {', '.join(choices)}"
        for holds, rule in setting_of(field).rules:
            if not holds(value):
                yield field.name, rule
                break
    if config.rounds_schedule and config.rounds is not None:
        yield "rounds_schedule", "cannot stand beside rounds"
    yield from _batch_rules(config)


def _batch_rules(config: TrainConfig) -> Iterator[tuple[str, str]]:
    sizes = (config.batch_sequences, config.sequence_length)
    if all(_is_int(size, 1) for size in sizes) and math.prod(sizes) > MAX_BATCH_TOKENS:
        yield "batch_sequences", f"times sequence_length must be at most {MAX_BATCH_TOKENS}"
    shares = config.accumulate
    if _is_int(shares, 1) and _is_int(sizes[0], 1) and sizes[0] % shares:
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
    growing = all(earlier < later for earlier, later in pairwise(shares))
    return rounds_fit and growing and (not shares or shares[0] == 0)


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # False for NaN


def _are_betas(value: object) -> bool:
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    return all(_is_number(beta) and 0 <= beta < 1 for beta in value)


def _at_least(least: int) -> Rule:
    return lambda value: _is_int(value, least), f"must be a whole number of at least {least}"


_COUNT = _at_least(1)
_NO_MORE_STEPS: Rule = (lambda value: value <= MAX_STEPS, f"must be at most {MAX_STEPS}")
_SEED: Rule = (
    lambda value: _is_int(value, 0) and value <= MAX_SEED,
    "must be a whole number from 0 to 2**63 - 1",
)
_ABOVE_ZERO: Rule = (lambda value: _is_number(value) and value > 0, "must be a number above 0")
_NOT_NEGATIVE: Rule = (
    lambda value: _is_number(value) and value >= 0,
    "must be a number of at least 0",
)
_SHARE: Rule = (
    lambda value: _is_number(value) and 0 <= value <= 1,
    "must be a number from 0 to 1",
)
_TRUTH: Rule = (lambda value: isinstance(value, bool), "must be true or false")
_BETAS: Rule = (_are_betas, "must be two numbers from 0 to below 1")
_ROUNDS: Rule = (
    _are_rounds,
    "must be a whole number of at least 1, or such numbers by repeat",
)
_STAGES: Rule = (
    _is_schedule,
    "must be pairs of a share and rounds, the shares growing from 0 to below 1",
)


def _setting(
    default: Any, doc: str, *rules: Rule, option: str | None = None, otherwise: str | None = None
) -> Any:
    """A field of `TrainConfig`."""
    return dataclasses.field(
        default=default, metadata={"setting": Setting(doc, rules, option, otherwise)}
    )


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training run; raises SpecError naming every bad value.

    >>> TrainConfig(steps=10, batch_sequences=4, sequence_length=32).tokens
    1280
    """

    steps: int = _setting(1000, "Training steps.", _COUNT, _NO_MORE_STEPS)
    batch_sequences: int = _setting(
        16, "Sequences in a step, over all devices.", _COUNT, option="--batch"
    )
    sequence_length: int = _setting(
        256, "Tokens in a sequence", _COUNT, option="--seq", otherwise="the context"
    )
    learning_rate: float = _setting(2e-3, "Highest learning rate.", _ABOVE_ZERO, option="--lr")
    final_learning_rate_share: float = _setting(
        0.1, "Share of the learning rate at the last step.", _SHARE
    )
    warmup_steps: int = _setting(
        50,
        "Steps of warm-up",
        _at_least(0),
        option="--warmup",
        otherwise="a tenth of the run, at most 50,",
    )
    weight_decay: float = _setting(0.1, "Of matrices.", _NOT_NEGATIVE, option="--weight-decay")
    betas: tuple[float, float] = _setting((0.9, 0.95), "Averaging of AdamW.", _BETAS)
    clip: float = _setting(1.0, "Largest norm of the gradient.", _ABOVE_ZERO, option="--clip")
    seed: int = _setting(0, "Of the weights and the order of the data.", _SEED, option="--seed")
    precision: TrainingPrecision = _setting(
        "fp32",
        "Of matrix products; weights and optimizer stay in fp32.",
        option="--precision",
    )
    log_every: int = _setting(10, "Steps between lines of metrics.", _COUNT)
    eval_every: int = _setting(100, "Steps between evaluations.", _COUNT, option="--eval-every")
    eval_windows: int = _setting(
        64, "Windows of held-out text that an evaluation during training looks at.", _COUNT
    )
    checkpoint_every: int = _setting(
        200, "Steps between checkpoints.", _COUNT, option="--checkpoint-every"
    )
    rounds: Rounds = _setting(
        None,
        "Rounds while training, of every repeat, as 3, or of one, as A=2; those written or drawn "
        "if not given.",
        _ROUNDS,
        option="--rounds",
    )
    compile: bool = _setting(
        False,
        "Compile each block with torch.compile; needs a C++ compiler.",
        _TRUTH,
        option="--compile",
    )
    accumulate: int = _setting(
        1, "Parts of equal size in which a step is computed.", _COUNT, option="--accumulate"
    )
    checkpointing: Checkpointing = _setting(
        "none",
        "Activations to recompute in the backward pass: those of a visit or of a round at a time.",
        option="--checkpointing",
    )
    optimizer: Literal["adamw", "muon"] = _setting(
        "adamw",
        "AdamW, or Muon for the matrices of blocks and AdamW for the rest.",
        option="--optimizer",
    )
    schedule: Literal["cosine", "wsd"] = _setting(
        "cosine",
        "Of the learning rate: half a cosine, or stable with a linear decay at the end.",
        option="--schedule",
    )
    decay_share: float = _setting(
        0.2, "Share of the steps over which wsd decays.", _SHARE, option="--decay-share"
    )
    rounds_schedule: tuple[tuple[float, int], ...] = _setting(
        (),
        "Rounds of every repeat that grow over the run, as 1@0,2@30%,3@60%.",
        _STAGES,
        option="--rounds-schedule",
    )
    packing: Literal["across", "documents"] = _setting(
        "across",
        "Whether attention and targets cross from one document into the next.",
        option="--packing",
    )
    init_depth: Literal["executed", "stored"] = _setting(
        "executed",
        "Layers that the start of residual weights is scaled for; a choice of ours.",
        option="--init-depth",
    )
    learning_rate_visits_power: float = _setting(
        0.0,
        "p: a block visited v times learns at v^-p of the rate; a choice of ours.",
        _SHARE,
        option="--lr-visits-power",
    )
    keep: int = _setting(2, "Checkpoints that are kept.", _COUNT, option="--keep")
    heal: str = _setting(
        "",
        "A model folder with the same tokenizer, whose predictions the run follows as well: the "
        "source of a retrofit.",
        (lambda value: isinstance(value, str), "must be the name of a folder"),
        option="--heal",
    )
    heal_weight: float = _setting(
        1.0,
        "Weight of the KL divergence from the model of heal, beside the cross entropy.",
        _NOT_NEGATIVE,
        option="--heal-weight",
    )
    learns: Literal["all", "repeats"] = _setting(
        "all",
        "What learns: every weight, or those alone that repeats own, such as adapters.",
        option="--learns",
    )
    objective: Literal["next_token", "classify", "sigmoid_pairs"] = _setting(
        "next_token",
        "What the model learns: the next token of a text, the class of a picture, or which "
        "captions are those of which pictures",
        option="--objective",
        otherwise="the last for pairs:…, else the first,",
    )

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _plain(getattr(self, field.name)))
        object.__setattr__(self, "rounds", plain_rounds(self.rounds))
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
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    unknown = [
        Problem(
            code="unknown-key",
            message=f"'{key}' is not a training setting",
            place=_at(place, key),
            hint=did_you_mean(key, names),
        )
        for key in values
        if key not in names
    ]
    settings = {key: value for key, value in values.items() if key in names}
    settings = {key: _tuples(value) for key, value in settings.items()}
    try:
        config = TrainConfig(**settings)
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
