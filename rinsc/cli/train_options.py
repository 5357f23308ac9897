"""The options of ``rinsc train`` that say how, rather than what: one for each setting that has one.

Type, default and help are those of the fields of `TrainConfig`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from cyclopts import Group, Parameter

from rinsc.cli.values import Count, RoundsOption, Seed, parse_rounds
from rinsc.errors import UsageError
from rinsc.training.config import TrainConfig, setting_of

_STAGE = re.compile(r"(?P<rounds>\d{1,4})@(?P<share>\d+(?:\.\d+)?)(?P<percent>%?)")


def parse_schedule(text: str | None) -> tuple[tuple[float, int], ...]:
    """``1@0,2@30%`` as pairs of a share and rounds; raises UsageError."""
    if text is None:
        return ()
    stages = []
    for stage in text.split(","):
        match = _STAGE.fullmatch(stage.strip())
        if match is None:
            message = f"--rounds-schedule does not take '{stage[:60]}'"
            hint = "write rounds and where they begin: 1@0,2@30%,3@60%"
            raise UsageError("usage", message, hint=hint)
        share = float(match["share"]) / (100 if match["percent"] else 1)
        if share >= 1:
            message = f"--rounds-schedule begins '{stage.strip()[:60]}' after the end of the run"
            hint = "write a share of the run: 2@40% or 2@0.4"
            raise UsageError("usage", message, hint=hint)
        stages.append((share, int(match["rounds"])))
    return tuple(stages)


@dataclass(frozen=True)
class _Written:
    """How a setting is written on the command line where that is not as in Python."""

    type: Any
    default: Any
    parse: Callable[[Any], Any]


_WRITTEN = {
    "rounds": _Written(RoundsOption, (), parse_rounds),
    "rounds_schedule": _Written(str | None, None, parse_schedule),
    "seed": _Written(Seed, TrainConfig.seed, int),
    "warmup_steps": _Written(int, TrainConfig.warmup_steps, lambda steps: steps),
}

# Where the settings of a run are given, for errors and for the names of the options.
OPTION_OF_SETTING = {
    own.name: option for own in fields(TrainConfig) if (option := setting_of(own).option)
}

if TYPE_CHECKING:

    class TrainOptions:
        """Settings of a run; each is a key of its ``train.toml``."""
else:

    def _fields():
        types = get_type_hints(TrainConfig)
        for setting_field in fields(TrainConfig):
            setting, own = setting_of(setting_field), _WRITTEN.get(setting_field.name)
            if setting.option is None:
                continue
            kind = Count if types[setting_field.name] is int else types[setting_field.name]
            default, doc = setting_field.default, setting.doc
            if own is not None:
                kind, default = own.type, own.default
            if setting.otherwise is not None:
                kind, default = kind | None, None
                doc = f"{doc}; {setting.otherwise} if not given."
            yield (
                setting_field.name,
                Annotated[kind, Parameter(setting.option, help=doc)],
                field(default=default),
            )

    _options = make_dataclass("TrainOptions", _fields(), frozen=True)
    _options.__module__ = __name__  # what is of no module of a program is no class to cyclopts
    TrainOptions = Parameter(name="*", group=Group("Training"))(_options)


def given_settings(options: TrainOptions) -> Mapping[str, Any]:
    """The settings that the options give, by their names; raises UsageError."""
    values = {}
    for name in OPTION_OF_SETTING:
        value, own = getattr(options, name), _WRITTEN.get(name)
        value = value if own is None else own.parse(value)
        if value is not None:
            values[name] = value
    return values


NO_TRAIN_OPTIONS = TrainOptions()
