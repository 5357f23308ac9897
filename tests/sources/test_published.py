"""Configs as published checkpoints have them, older keys too, against their parameter counts."""

from __future__ import annotations

from typing import Any

import pytest

from rinsc.cost import stored_params
from rinsc.graph import build_graph
from rinsc.sources import family_of, spec_from_config


def config(model_type: str, sizes: str, more: dict[str, Any]) -> dict[str, Any]:
    """``sizes``: layers, width, heads, heads of keys and values, width of the MLP, vocabulary,
    context."""
    layers, width, heads, kv_heads, mlp, vocabulary, context = map(int, sizes.split())
    return {
        "architectures": ["AnyForCausalLM"],
        "model_type": model_type,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": mlp,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "torch_dtype": "bfloat16",
        "transformers_version": "4.45.0",
        "use_cache": True,
        **more,
    }


LLAMA3: dict[str, Any] = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
LONG: dict[str, Any] = {"type": "longrope", "short_factor": [1.05] * 48, "long_factor": [1.1] * 48}
TIED: dict[str, Any] = {"tie_word_embeddings": True}
SILU: dict[str, Any] = {"hidden_act": "silu", "rms_norm_eps": 1e-5}
GEMMA: dict[str, Any] = {
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_act": "gelu_pytorch_tanh",
}
GEMMA |= {"head_dim": 256, "cache_implementation": "hybrid", "rms_norm_eps": 1e-6}
CAPS: dict[str, Any] = {
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "sliding_window": 4096,
}
NEOX: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-5,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
}
PUBLISHED: dict[str, tuple[int, dict[str, Any]]] = {
    "Llama 3.2 1B": (
        1_235_814_400,
        config(
            "llama",
            "16 2048 32 8 8192 128256 131072",
            {
                **SILU,
                **TIED,
                "head_dim": 64,
                "rope_theta": 500000.0,
                "pretraining_tp": 1,
                "rope_scaling": LLAMA3,
                "attention_bias": False,
                "mlp_bias": False,
            },
        ),
    ),
    "Mistral 7B v0.1": (
        7_241_732_096,
        config("mistral", "32 4096 32 8 14336 32000 32768", {**SILU, "sliding_window": 4096}),
    ),
    "Qwen2.5 0.5B": (
        494_032_768,
        config(
            "qwen2",
            "24 896 14 2 4864 151936 32768",
            {
                **SILU,
                **TIED,
                "use_sliding_window": False,
                "sliding_window": 32768,
                "max_window_layers": 24,
                "rope_theta": 1000000.0,
                "use_mrope": False,
            },
        ),
    ),
    "Gemma 2 2B": (
        2_614_341_888,
        config(
            "gemma2",
            "26 2304 8 4 9216 256000 8192",
            {
                **GEMMA,
                **CAPS,
                "query_pre_attn_scalar": 256,
                "rope_theta": 10000.0,
            },
        ),
    ),
    "Gemma 3 1B": (
        999_885_952,
        config(
            "gemma3_text",
            "26 1152 4 1 6912 262144 32768",
            {
                **GEMMA,
                "attn_logit_softcapping": None,
                "final_logit_softcapping": None,
                "query_pre_attn_scalar": 256,
                "sliding_window": 512,
                "sliding_window_pattern": 6,
                "rope_theta": 1000000,
                "rope_local_base_freq": 10000,
                "rope_scaling": None,
            },
        ),
    ),
    "OLMo 2 1B": (
        1_484_916_736,
        config("olmo2", "16 2048 16 16 8192 100352 4096", {**SILU, "rope_theta": 500000}),
    ),
    "Phi-3 mini 128k": (
        3_821_079_552,
        config(
            "phi3",
            "32 3072 32 32 8192 32064 131072",
            {
                **SILU,
                "rope_scaling": LONG,
                "original_max_position_embeddings": 4096,
                "sliding_window": 262144,
                "resid_pdrop": 0.0,
                "embd_pdrop": 0.0,
                "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"},
            },
        ),
    ),
    "SmolLM3 3B": (
        3_075_098_624,
        config(
            "smollm3",
            "36 2048 16 4 11008 128256 65536",
            {
                **SILU,
                **TIED,
                "no_rope_layer_interval": 4,
                "use_sliding_window": False,
                "pretraining_tp": 2,
                "rope_theta": 5000000.0,
                "max_window_layers": 28,
            },
        ),
    ),
    "Pythia 160M": (
        162_322_944,
        {
            key: value
            for key, value in config(
                "gpt_neox", "12 768 12 12 3072 50304 2048", {**NEOX, "use_parallel_residual": True}
            ).items()
            if key != "num_key_value_heads"
        },
    ),
    "GPT-2": (
        124_439_808,
        {
            **{"model_type": "gpt2", "n_layer": 12, "n_embd": 768, "n_head": 12, "n_ctx": 1024},
            **{"n_positions": 1024, "vocab_size": 50257, "activation_function": "gelu_new"},
            **{"layer_norm_epsilon": 1e-5, "attn_pdrop": 0.1, "summary_type": "cls_index"},
            "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
        },
    ),
    "Ouro 1.4B": (
        1_434_650_624,
        config(
            "ouro",
            "24 2048 16 16 5632 49152 65536",
            {
                **SILU,
                "total_ut_steps": 4,
                "early_exit_threshold": 1.0,
                "rope_theta": 1000000.0,
                "use_sliding_window": False,
                "sliding_window": None,
                "rope_scaling": None,
            },
        ),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_is_read_whole(name: str) -> None:
    count, published = PUBLISHED[name]
    spec = spec_from_config(family_of(published), published)
    assert stored_params(build_graph(spec)) == count
