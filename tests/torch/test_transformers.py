"""The layer kinds against the classes of transformers, with weights copied across."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from rinsc.backends.torch import to_torch
from rinsc.cost import stored_params
from rinsc.extras import zoo_dir
from rinsc.graph import build_graph
from rinsc.sources import config_from_spec, tensors_by_our_names
from rinsc.sources.llama import LLAMA
from rinsc.spec import ModelSpec, model_spec, with_signature


def llama_spec(*, kv_heads: int, tied: bool, head_dim: int | None = None) -> ModelSpec:
    return model_spec(
        "A[2]B[3]",
        width=40,
        head_dim=head_dim,
        heads=4 if kv_heads != 1 else 2,
        kv_heads=kv_heads,
        mlp_width=61,
        vocab_size=83,
        context=37,
        tied_embedding=tied,
        rope_theta=5003.0,
        norm_eps=1e-6,
    )


def randomise(model: nn.Module) -> None:
    """Weights large enough that a swapped pair would show; norms and biases too."""
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))


def llama_reference(spec: ModelSpec) -> Any:
    plain = with_signature(spec, f"A[{spec.layers}]")
    model: Any = LlamaForCausalLM(LlamaConfig(**config_from_spec(LLAMA, plain)))
    return model.eval()


def copy_llama(model: nn.Module, reference: Any) -> None:
    graph: Any = model.graph
    model.load_state_dict(tensors_by_our_names(LLAMA, graph, reference.state_dict()))


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("head_dim", [None, 6, 16])
def test_llama_logits_equal_those_of_transformers(
    kv_heads: int, tied: bool, head_dim: int | None
) -> None:
    spec = llama_spec(kv_heads=kv_heads, tied=tied, head_dim=head_dim)
    reference = llama_reference(spec)
    randomise(reference)
    model = to_torch(spec)
    copy_llama(model, reference)
    input_ids = torch.randint(spec.vocab_size, (3, 29), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = model(input_ids), reference(input_ids).logits
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_a_wrong_rotary_base_is_seen() -> None:
    spec = llama_spec(kv_heads=2, tied=True)
    reference = llama_reference(spec)
    randomise(reference)
    model = to_torch(dataclasses.replace(spec, rope_theta=499.0))
    copy_llama(model, reference)
    input_ids = torch.arange(29)[None]
    with torch.no_grad():
        assert (model(input_ids) - reference(input_ids).logits).abs().max() > 1e-2


def gpt_spec() -> ModelSpec:
    return model_spec(
        "A[2]B[1]",
        kind="gpt",
        width=40,
        heads=4,
        mlp_width=61,
        vocab_size=83,
        context=37,
        tied_embedding=True,
    )


def copy_gpt(model: nn.Module, reference: Any) -> None:
    """GPT-2 keeps query, key and value in one matrix, stored (in, out)."""
    source = reference.state_dict()
    own = {
        "embedding.weight": source["transformer.wte.weight"],
        "positions.weight": source["transformer.wpe.weight"],
        "final_norm.weight": source["transformer.ln_f.weight"],
        "final_norm.bias": source["transformer.ln_f.bias"],
    }
    names = {"output": "attn.c_proj", "up": "mlp.c_fc", "down": "mlp.c_proj"}
    norms = {"attention_norm": "ln_1", "mlp_norm": "ln_2"}
    for layer, place in enumerate(["A.0", "A.1", "B.0"]):
        root = f"transformer.h.{layer}"
        weights = source[f"{root}.attn.c_attn.weight"].T.chunk(3)
        biases = source[f"{root}.attn.c_attn.bias"].chunk(3)
        for ours, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
            own[f"{place}.{ours}.weight"], own[f"{place}.{ours}.bias"] = weight, bias
        for ours, theirs in names.items():
            own[f"{place}.{ours}.weight"] = source[f"{root}.{theirs}.weight"].T
            own[f"{place}.{ours}.bias"] = source[f"{root}.{theirs}.bias"]
        for ours, theirs in norms.items():
            own[f"{place}.{ours}.weight"] = source[f"{root}.{theirs}.weight"]
            own[f"{place}.{ours}.bias"] = source[f"{root}.{theirs}.bias"]
    model.load_state_dict(own)


def test_gpt_logits_equal_those_of_transformers() -> None:
    spec = gpt_spec()
    config = GPT2Config(
        vocab_size=spec.vocab_size,
        n_positions=spec.context,
        n_embd=spec.width,
        n_layer=spec.layers,
        n_head=spec.heads,
        n_inner=spec.mlp_width,
        layer_norm_epsilon=spec.norm_eps,
    )
    reference: Any = GPT2LMHeadModel(config)
    reference.eval()
    randomise(reference)
    model = to_torch(spec)
    copy_gpt(model, reference)
    input_ids = torch.randint(spec.vocab_size, (3, 31), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        ours, theirs = model(input_ids), reference(input_ids).logits
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


PUBLISHED = {"gpt2": 124_439_808, "tinyllama": 1_100_048_384}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_counts_equal_the_published_ones(name: str) -> None:
    spec = model_spec(zoo_dir() / f"{name}.toml")
    assert stored_params(build_graph(spec)) == PUBLISHED[name]
    module = to_torch(spec, device="meta")
    assert sum(parameter.numel() for parameter in module.parameters()) == PUBLISHED[name]
