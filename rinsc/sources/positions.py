"""Rotary positions and windows as configs of transformers have them, and back.

rope_parameters: {rope_type: "linear", factor: 8.0, rope_theta: 1e6}
layer_types: ["sliding_attention", "full_attention", …]

rope_theta = 1e6, decoder.scaling = "linear factor=8.0", decoder.pattern = "lg"
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rinsc.errors import SpecError
from rinsc.layers.rope_scaling import SETTINGS, read_scaling, scaling_text
from rinsc.sources.config_values import checkpoint_problem, is_number, layer_count, shortest_pattern
from rinsc.spec import ModelSpec

Config = Mapping[str, Any]
PLACE = "rope_parameters"
THETA, FRACTION = "rope_theta", "partial_rotary_factor"
ORIGINAL = "original_max_position_embeddings"
SLIDING, FULL = "sliding_attention", "full_attention"
KEYS = frozenset(("rope_parameters", "rope_scaling", "rope_theta"))
NAMES = ("rope_type", "type", THETA, FRACTION)  # of a rotation, beside its scaling


def rotation(config: Config, own: object, default_theta: float) -> tuple[float, str, float | None]:
    """Base, scaling and fraction of one table of a config, or of what an older one has.

    Raises `SpecError` for a scaling that is not computed.
    """
    table: Config = own if isinstance(own, Mapping) else {"rope_type": own or "default"}
    kind = table.get("rope_type", table.get("type", "default"))
    values = {k: v for k, v in table.items() if k not in NAMES and v is not None}
    theta = table.get(THETA, config.get(THETA))
    theta = default_theta if theta is None else theta
    fraction = table.get(FRACTION, config.get(FRACTION))
    for name, number in ((THETA, theta), (FRACTION, fraction)):
        if number is not None and not is_number(number):
            raise _unscaled(f"'{name}' of rotary positions is {number!r:.40}, no number above 0")
    if kind == "default":
        values.pop(ORIGINAL, None)  # which only says where a scaling would begin
        if values:
            raise _unscaled(f"rotary positions have '{min(values)}', which is not computed")
        return theta, "", fraction
    if not isinstance(kind, str) or kind not in SETTINGS:
        raise _unscaled(f"rotary positions are scaled by {kind!r:.40}, which is not computed")
    needed, _ = SETTINGS[kind]
    if ORIGINAL in needed:
        whole = config.get(ORIGINAL)
        if whole is None:
            whole = values.get(ORIGINAL, config.get("max_position_embeddings"))
        values[ORIGINAL] = whole
    elif ORIGINAL in values:
        del values[ORIGINAL]
    sound = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        text = scaling_text(kind, sound)
        read_scaling(text)
    except (ValueError, TypeError) as error:
        raise _unscaled(str(error)) from None
    return theta, text, fraction


def table_of(theta: float, scaling: str) -> dict[str, Any]:
    """The way back of `rotation`."""
    if not scaling:
        return {"rope_type": "default", THETA: theta}
    kind, values = read_scaling(scaling)
    own = {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
    return {"rope_type": kind, THETA: theta, **own}


def one_rotation(
    config: Config, default_theta: float = 10000.0, *, in_part: bool = False
) -> dict[str, Any]:
    """Of a model whose layers all turn alike: keys of a spec.

    Only models ``in_part`` leave dimensions of a head as they are; the others of transformers
    compute something else than their config says. Raises `SpecError`.
    """
    own = config.get("rope_parameters") or config.get("rope_scaling")
    theta, scaling, fraction = rotation(config, own, default_theta)
    settings: dict[str, Any] = {"scaling": scaling}
    if fraction is not None and in_part:
        settings["rotary_fraction"] = float(fraction)
    elif fraction not in (None, 1):
        raise _unscaled(f"'{FRACTION}' is {fraction!r:.40}, and whole heads turn in this family")
    return {"rope_theta": theta, "settings": settings}


def one_rotation_config(spec: ModelSpec) -> dict[str, Any]:
    """The way back of `one_rotation`."""
    own = own_settings(spec)
    fraction = {} if own.rotary_fraction == 1 else {FRACTION: own.rotary_fraction}
    return {"rope_parameters": table_of(spec.rope_theta, own.scaling) | fraction}


def two_rotations(config: Config, theta: float, local: float, local_key: str) -> dict[str, Any]:
    """Of a model whose local layers turn in another way: keys of a spec.

    ``theta`` and ``local`` are the bases of a config that says none; an older one has that of local
    layers under ``local_key``, and its scaling is that of the others.
    """
    tables = config.get("rope_parameters")
    if not isinstance(tables, Mapping):
        old = config.get(local_key)
        tables = {FULL: config.get("rope_scaling"), SLIDING: {THETA: local if old is None else old}}
    unknown = tables.keys() - {FULL, SLIDING}
    if unknown:
        raise _unscaled(f"rotary positions have '{min(unknown)}', which is not computed")
    whole = {key: value for key, value in config.items() if key != THETA}
    of_all = rotation(config, tables.get(FULL), theta)
    of_local = rotation(whole, tables.get(SLIDING), local)
    if any(fraction not in (None, 1) for *_, fraction in (of_all, of_local)):
        raise _unscaled(f"'{FRACTION}' is given, and whole heads turn in this family")
    return {
        "rope_theta": of_all[0],
        "settings": {
            "scaling": of_all[1],
            "local_theta": 0.0 if of_local[0] == of_all[0] else of_local[0],
            "local_scaling": "same" if of_local[1] == of_all[1] else of_local[1],
        },
    }


def two_rotations_config(spec: ModelSpec) -> dict[str, Any]:
    """The way back of `two_rotations`."""
    own = own_settings(spec)
    scaling = own.scaling if own.local_scaling == "same" else own.local_scaling
    tables = {
        FULL: table_of(spec.rope_theta, own.scaling),
        SLIDING: table_of(own.local_theta or spec.rope_theta, scaling),
    }
    return {"rope_parameters": tables}


def head_width(config: Config, default: int | None = None) -> dict[str, Any]:
    """``head_dim``, where it is not the width over the heads."""
    width, heads = config.get("hidden_size"), config.get("num_attention_heads")
    head_dim = config.get("head_dim")
    head_dim = default if head_dim is None else head_dim
    known = isinstance(width, int) and isinstance(heads, int) and heads > 0
    if known and head_dim == width // heads:  # type: ignore[operator]
        head_dim = None
    return {} if head_dim is None else {"head_dim": head_dim}


def windows(config: Config, types: Sequence[str], letters: Mapping[str, str]) -> dict[str, Any]:
    """The settings of layers of these types: ``letters`` are those of a pattern for each type."""
    own = config.get("layer_types")
    names = list(types) if own is None else own
    layers = layer_count(config)
    wrong = not isinstance(names, list) or any(str(name) not in letters for name in names)
    if wrong or len(names) != layers:
        message = f"'layer_types' must name {layers} layers, each {' or '.join(letters)}"
        raise SpecError.of(checkpoint_problem("unsupported-value", message, "layer_types"))
    return pattern_of("".join(letters[name] for name in names), config.get("sliding_window"))


def pattern_of(letters: str, window: object) -> dict[str, Any]:
    """Settings of a stack with these letters."""
    settings: dict[str, Any] = {"pattern": shortest_pattern(letters, len(letters))}
    if not set(letters) & set("lm"):
        return settings
    if window is None:
        message = "layers have a window, and neither 'sliding_window' nor 'use_sliding_window' "
        message += "says how wide it is"
        raise SpecError.of(checkpoint_problem("missing-key", message, "sliding_window"))
    return {**settings, "window": window}


def own_settings(spec: ModelSpec) -> Any:
    """Those of a kind of decoder, which Llama's leaves as they are."""
    return spec.settings_of("decoder" if spec.kind == "llama" else spec.kind)


def letters_of(spec: ModelSpec) -> str:
    """The letter of each layer."""
    pattern: str = own_settings(spec).pattern
    return (pattern * spec.layers)[: spec.layers]


def types_of(spec: ModelSpec) -> list[str]:
    """What configs call the layers."""
    return [SLIDING if letter in "lm" else FULL for letter in letters_of(spec)]


def _unscaled(message: str) -> SpecError:
    place, hint = f"config.json: {PLACE}", f"only {', '.join(SETTINGS)} are computed"
    return SpecError("unsupported-value", message, place=place, hint=hint)
