"""Nanbeige 4.2: Llama's stack run ``num_loops`` times, by default with the norm after every pass.

Its code comes with the checkpoint. With ``skip_loop_final_norm`` the norm runs once, at the end.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from rinsc.errors import SpecError
from rinsc.sources.config_values import Config, checkpoint_problem
from rinsc.sources.llama import LLAMA, own_head
from rinsc.sources.ouro import looped, trips_of
from rinsc.sources.positions import head_width, one_rotation
from rinsc.spec import ModelSpec

LOOPS, SKIPS = "num_loops", "skip_loop_final_norm"


def _signature(config: Config) -> str:
    return looped(config.get("num_hidden_layers"), config.get(LOOPS, 1))


def _more(config: Config) -> dict[str, Any]:
    channels, head_dim = config.get("kv_channels"), config.get("head_dim")
    if channels is not None and channels != head_dim:
        message = f"'kv_channels' is {channels!r:.40}, and 'head_dim' {head_dim!r:.40}"
        raise SpecError.of(checkpoint_problem("unsupported-value", message, "kv_channels"))
    kind = "decoder" if config.get(SKIPS) or config.get(LOOPS, 1) == 1 else "looped_decoder"
    return {"kind": kind} | one_rotation(config) | head_width(config)


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    loops = {LOOPS: trips_of(spec), SKIPS: spec.kind == "decoder" and trips_of(spec) > 1}
    return own_head(spec) | loops


NANBEIGE = replace(
    LLAMA,
    model_type="nanbeige",
    kind="looped_decoder",
    plain_kind=None,
    more_kinds=frozenset(("decoder",)),
    signature=_signature,
    ignored=LLAMA.ignored | {"loop_loss_weights"},
    read_elsewhere=LLAMA.read_elsewhere | {LOOPS, SKIPS, "kv_channels"},
    more=_more,
    more_config=_more_config,
    frame={**LLAMA.frame, "A.norm.weight": "model.norm.weight"},
)
