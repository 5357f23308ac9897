"""GPT-2: learned positions, and matrices that are stored as (in, out)."""

from __future__ import annotations

from typing import Any

from rinsc.sources.config_values import Config
from rinsc.sources.family import Family
from rinsc.spec import ModelSpec

LAYER = "transformer.h.{layer}"
MATRICES = {
    **dict.fromkeys(("query", "key", "value"), f"{LAYER}.attn.c_attn"),
    **{"output": f"{LAYER}.attn.c_proj", "up": f"{LAYER}.mlp.c_fc", "down": f"{LAYER}.mlp.c_proj"},
}
NORMS = {"attention_norm": f"{LAYER}.ln_1", "mlp_norm": f"{LAYER}.ln_2"}
DROPOUT = ("resid_pdrop", "embd_pdrop", "attn_pdrop")
SUMMARY = ("type", "use_proj", "activation", "proj_to_labels", "first_dropout")


def _more(config: Config) -> dict[str, Any]:
    inner, width = config.get("n_inner"), config.get("n_embd")
    known = isinstance(width, int)
    return {"mlp_width": 4 * width if inner is None and known else inner}  # type: ignore[operator]


def _more_config(spec: ModelSpec) -> dict[str, Any]:
    return {"n_inner": spec.mlp_width}


GPT2 = Family(
    model_type="gpt2",
    kind="gpt",
    dimensions={
        "layers": "n_layer",
        "width": "n_embd",
        "heads": "n_head",
        "vocab_size": "vocab_size",
        "context": "n_positions",
        "norm_eps": "layer_norm_epsilon",
        "tied_embedding": "tie_word_embeddings",
    },
    defaults={"layer_norm_epsilon": 1e-5, "tie_word_embeddings": True},
    required={
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
    },
    ignored=frozenset(
        (
            *("initializer_range", "reorder_and_upcast_attn", "n_ctx", *DROPOUT),
            *(f"summary_{name}" for name in SUMMARY),
        )
    ),
    read_elsewhere=frozenset(("n_inner",)),
    more=_more,
    more_config=_more_config,
    frame={
        "embedding.weight": "transformer.wte.weight",
        "positions.weight": "transformer.wpe.weight",
        "final_norm.weight": "transformer.ln_f.weight",
        "final_norm.bias": "transformer.ln_f.bias",
        "head.weight": "lm_head.weight",
    },
    layer={
        f"{ours}.{tensor}": f"{theirs}.{tensor}"
        for ours, theirs in {**MATRICES, **NORMS}.items()
        for tensor in ("weight", "bias")
    },
    turned=frozenset(f"{name}.weight" for name in MATRICES.values()),
    computed=(".attn.bias", ".attn.masked_bias"),
    base="transformer.",
)
