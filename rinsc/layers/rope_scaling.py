"""Rotary positions that are scaled for longer contexts: a line of text to divisors of angles.

    llama3 factor=8.0 high_freq_factor=4.0 low_freq_factor=1.0 original_max_position_embeddings=8192

The names are those that configs of transformers have. ``linear``, ``llama3``, ``yarn`` and
``longrope`` are known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from rinsc.errors import GraphError

Number: TypeAlias = bool | int | float
Numbers: TypeAlias = tuple[float, ...]
Value: TypeAlias = Number | Numbers


@dataclass(frozen=True)
class Divided:
    """What angles are divided by, those of ``far`` in sequences beyond ``near`` positions, and what
    cosines and sines are multiplied with."""

    divisors: Numbers
    far: Numbers | None = None
    near: int | None = None
    gain: float | None = None


@dataclass(frozen=True)
class Rotation:
    """What is scaled: how many dimensions of a head turn, on which base, up to which context."""

    dimensions: int
    theta: float
    context: int

    @property
    def waves(self) -> list[float]:
        """The positions that each pair takes for a turn."""
        pairs = range(0, self.dimensions, 2)
        return [2 * math.pi * self.theta ** (pair / self.dimensions) for pair in pairs]


ORIGINAL = "original_max_position_embeddings"
SETTINGS: Mapping[str, tuple[Sequence[str], Sequence[str]]] = {  # needed, and possible
    "linear": (("factor",), ()),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", ORIGINAL), ()),
    "yarn": (
        (ORIGINAL,),
        (
            *("factor", "attention_factor", "beta_fast", "beta_slow", "truncate"),
            *("mscale", "mscale_all_dim"),
        ),
    ),
    "longrope": (("short_factor", "long_factor", ORIGINAL), ("factor", "attention_factor")),
}


def scaling_text(name: str, values: Mapping[str, Value]) -> str:
    """The line of a scaling, its settings in the order of the alphabet."""
    return " ".join([name, *(f"{key}={_shown(value)}" for key, value in sorted(values.items()))])


def read_scaling(text: str) -> tuple[str, dict[str, Value]]:
    """The name and the settings of a line; raises `ValueError`."""
    name, *rest = text.split() or [""]
    if name not in SETTINGS:
        raise ValueError(f"rotary positions can be scaled by {', '.join(SETTINGS)}, not {name!r}")
    needed, possible = SETTINGS[name]
    values: dict[str, Value] = {}
    for item in rest:
        key, _, value = item.partition("=")
        if key not in (*needed, *possible):
            raise ValueError(f"the scaling '{name}' has no setting {key!r:.40}")
        values[key] = _read(value, key)
    missing = [key for key in needed if key not in values]
    if missing:
        raise ValueError(f"the scaling '{name}' needs '{missing[0]}'")
    return name, values


def small_scaling(text: str) -> str:
    """That of a small copy of a model: for any number of pairs, and seen in short sequences."""
    name = text.partition(" ")[0]
    if name not in SETTINGS:
        return text
    values = {k: v[:1] if isinstance(v, tuple) else v for k, v in read_scaling(text)[1].items()}
    return scaling_text(name, values | ({ORIGINAL: 16} if ORIGINAL in values else {}))


def divided(text: str, rotation: Rotation) -> Divided:
    """What a line makes of a rotation; raises `GraphError` where the two do not fit."""
    name, values = read_scaling(text)
    result = SCALINGS[name](values, rotation)
    for own in (result.divisors, result.far):
        if own is not None and len(own) != rotation.dimensions // 2:
            message = f"'{name}' has {len(own)} factors for {rotation.dimensions // 2} pairs"
            hint = "give a factor for each pair of dimensions that turn"
            raise GraphError("bad-rotation", message, place="settings", hint=hint)
    return result


def _linear(values: Mapping[str, Value], rotation: Rotation) -> Divided:
    """arXiv 2306.15595: positions are closer together."""
    return Divided(_rounded([_real(values, "factor")] * (rotation.dimensions // 2)))


def _llama3(values: Mapping[str, Value], rotation: Rotation) -> Divided:
    """Llama 3.1: pairs of long waves slow down, those of short ones stay, others in between."""
    factor, original = _real(values, "factor"), _real(values, ORIGINAL)
    low, high = _real(values, "low_freq_factor"), _real(values, "high_freq_factor")
    divisors = []
    for wave in rotation.waves:
        turns = original / wave  # in the context of the pretraining
        if turns > high:
            divisors.append(1.0)
        elif turns < low:
            divisors.append(factor)
        else:
            share = (turns - low) / (high - low)
            divisors.append(1 / ((1 - share) / factor + share))
    return Divided(_rounded(divisors))


def _yarn(values: Mapping[str, Value], rotation: Rotation) -> Divided:
    """arXiv 2309.00071: as llama3, along the pairs, and with scores that are scaled."""
    original = _real(values, ORIGINAL)
    factor = _real(values, "factor", rotation.context / original)

    def pair_of(turns: float) -> float:
        wave = original / (turns * 2 * math.pi)
        return rotation.dimensions * math.log(wave) / (2 * math.log(rotation.theta))

    first, last = (
        pair_of(_real(values, "beta_fast", 32.0)),
        pair_of(_real(values, "beta_slow", 1.0)),
    )
    if values.get("truncate", True):
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotation.dimensions - 1)
    span = last - first or 0.001
    slowed = [min(max((i - first) / span, 0), 1) for i in range(rotation.dimensions // 2)]
    divisors = [1 / (share / factor + 1 - share) for share in slowed]
    return Divided(_rounded(divisors), gain=_gain(values, _yarn_gain(values, factor)))


def _yarn_gain(values: Mapping[str, Value], factor: float) -> float:
    def of(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1

    if values.get("mscale") and values.get("mscale_all_dim"):
        return of(_real(values, "mscale")) / of(_real(values, "mscale_all_dim"))
    return of(1.0)


def _longrope(values: Mapping[str, Value], rotation: Rotation) -> Divided:
    """arXiv 2402.13753: factors that were searched for, for short sequences and for long ones."""
    original = int(_real(values, ORIGINAL))
    factor = _real(values, "factor", rotation.context / original)
    gain = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    pairs = rotation.dimensions // 2
    near, far = (_all(values, key, pairs) for key in ("short_factor", "long_factor"))
    if rotation.context <= original:
        return Divided(near, gain=_gain(values, gain))
    return Divided(near, far, original, _gain(values, gain))


SCALINGS: Mapping[str, Callable[[Mapping[str, Value], Rotation], Divided]] = {
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
}


def _gain(values: Mapping[str, Value], default: float) -> float | None:
    gain = _real(values, "attention_factor", default)
    return None if gain == 1 else gain


def _real(values: Mapping[str, Value], key: str, default: float = 0.0) -> float:
    value = values.get(key, default)
    return default if isinstance(value, tuple) else float(value)


def _all(values: Mapping[str, Value], key: str, pairs: int) -> Numbers:
    """A number for each pair; one is that of all."""
    value = values[key]
    numbers = value if isinstance(value, tuple) else (value,)
    return _rounded(numbers * pairs if len(numbers) == 1 else numbers)


def _rounded(numbers: Sequence[float]) -> Numbers:
    """As float32 has them, so that no library's logarithm changes a model."""
    return tuple(float(f"{number:.9g}") for number in numbers)


def _shown(value: Value) -> str:
    if isinstance(value, tuple):
        return ",".join(repr(float(number)) for number in value)
    return str(value).lower() if isinstance(value, bool) else repr(value)


def _read(text: str, key: str) -> Value:
    if text in ("true", "false"):
        return text == "true"
    numbers = []
    for item in text.split(","):
        try:
            number = float(item)
        except ValueError:
            raise ValueError(f"'{key}' of a scaling is {text!r:.40}, no number") from None
        if not 0 < number < math.inf:
            raise ValueError(f"'{key}' of a scaling is {text!r:.40}; it must be above 0")
        numbers.append(number)
    if key.endswith(("short_factor", "long_factor")):
        return tuple(numbers)
    if len(numbers) != 1:
        raise ValueError(f"'{key}' of a scaling is one number, not {text!r:.40}")
    return int(text) if text.isdecimal() else numbers[0]
