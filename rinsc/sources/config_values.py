"""Values of foreign configs: which make sense, what they are called, and what is wrong with one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rinsc.errors import Problem, SpecError

Config = Mapping[str, Any]
LISTS = frozenset(("layer_types", "no_rope_layers"))
NUMBERS = frozenset(
    (
        *("head_dim", "sliding_window", "max_window_layers", "sliding_window_pattern", "n_inner"),
        *("rope_theta", "rope_local_base_freq", "partial_rotary_factor", "rotary_pct"),
        *("rotary_emb_base", "original_max_position_embeddings", "no_rope_layer_interval"),
        *("query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"),
        *("total_ut_steps", "num_loops", "kv_channels"),
    )
)
LARGEST, MOST_LAYERS = 1e15, 100000  # more is no model's, and would be counted for hours
FUNCTIONS = {  # what configs call a function of elements, and what we call it
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}


def shortest_pattern(pattern: str, layers: int) -> str:
    """The shortest pattern that gives so many layers the same letters."""
    whole = (pattern * layers)[:layers]
    for length in range(1, layers):
        if (whole[:length] * layers)[:layers] == whole:
            return whole[:length]
    return whole


def function_name(function: str) -> str:
    """What configs call one of our functions of elements."""
    return next(theirs for theirs, ours in FUNCTIONS.items() if ours == function)


def read_function(value: object, key: str) -> str:
    """Our name of it; raises `SpecError` for one that is not computed."""
    if isinstance(value, str) and value in FUNCTIONS:
        return FUNCTIONS[value]
    message = f"'{key}' is {value!r:.60}, and only {', '.join(FUNCTIONS)} are computed"
    raise SpecError.of(checkpoint_problem("unsupported-value", message, key))


def is_number(value: object) -> bool:
    """Whether it is one above 0, and no larger than any model's."""
    own = isinstance(value, int | float) and not isinstance(value, bool)
    return own and 0 < value < LARGEST  # type: ignore[operator]


def layer_count(config: Config) -> int:
    """The layers of a stack; 0 where the config says no number of them."""
    layers = config.get("num_hidden_layers")
    return layers if type(layers) is int and 0 < layers <= MOST_LAYERS else 0


def checkpoint_problem(code: str, message: str, key: str | None = None) -> Problem:
    """What is wrong with a checkpoint, at a key of its config."""
    location = None if key is None else f"config.json: {key}"
    hint = "this checkpoint is of another architecture than the family"
    return Problem(code, message, place=location, hint=hint)
