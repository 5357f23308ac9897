"""Families whose code comes with the checkpoint, against plain loops over Llama's modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from rinsc import fingerprint, verify
from rinsc.backends.torch import to_torch
from rinsc.errors import SpecError
from rinsc.sources import (
    config_from_spec,
    family_of,
    spec_from_config,
    tensors_by_our_names,
    tensors_by_their_names,
)
from rinsc.spec import model_spec
from tests.sources.test_families import IDS, SIZES

LLAMA: dict[str, Any] = {**SIZES, "head_dim": 16, "rms_norm_eps": 1e-6}
KEYS = {"eos_token_id": None, "bos_token_id": 1, "pad_token_id": 0}
PLAIN = {"rope_theta": 70000.0, "tie_word_embeddings": False, "hidden_act": "silu"}
OURO = {**LLAMA, **PLAIN, "model_type": "ouro", "total_ut_steps": 3, "early_exit_threshold": 1.0}
NANBEIGE = {**LLAMA, **PLAIN, "model_type": "nanbeige", "num_loops": 2, "qk_layernorm": False}
NANBEIGE |= {"loop_loss_weights": [0.5, 1.0], "insert_ngram_layer_idx": [], "kv_channels": 16}
OUTPUT_NORMS = ("input_layernorm_2", "post_attention_layernorm_2")


def llama(sandwich: bool) -> Any:
    """A model of transformers, its layers with two more norms where the layers of a family have."""
    torch.manual_seed(4)
    config = LlamaConfig(**LLAMA, rope_parameters={"rope_type": "default", "rope_theta": 70000.0})
    model: Any = LlamaForCausalLM(config)
    for layer in model.model.layers if sandwich else ():
        for name in OUTPUT_NORMS:
            setattr(layer, name, LlamaRMSNorm(32, 1e-6))
    if sandwich:
        model.model.early_exit_gate = nn.Linear(32, 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    return model.eval()


def looped(model: Any, trips: int, between: bool, ids: torch.Tensor) -> torch.Tensor:
    """Logits of the loop as the papers and the model cards describe it."""
    inner, x = model.model, model.model.embed_tokens(ids)
    positions = torch.arange(ids.shape[1])[None]
    rotary = inner.rotary_emb(x, position_ids=positions)
    mask = torch.full((ids.shape[1],) * 2, -torch.inf).triu(1)[None, None]
    for trip in range(trips):
        for layer in inner.layers:
            mixed, _ = layer.self_attn(
                layer.input_layernorm(x), position_embeddings=rotary, attention_mask=mask
            )
            x = x + getattr(layer, OUTPUT_NORMS[0], nn.Identity())(mixed)
            mixed = layer.mlp(layer.post_attention_layernorm(x))
            x = x + getattr(layer, OUTPUT_NORMS[1], nn.Identity())(mixed)
        if between or trip == trips - 1:
            x = inner.norm(x)
    logits: torch.Tensor = model.lm_head(x)
    return logits


@pytest.mark.parametrize(
    ("config", "trips", "between"),
    [
        (OURO, 3, True),
        (NANBEIGE, 2, True),
        ({**NANBEIGE, "skip_loop_final_norm": True}, 2, False),
        ({**NANBEIGE, "num_loops": 1}, 1, False),
    ],
)
def test_logits_are_those_of_the_loop(config: dict[str, Any], trips: int, between: bool) -> None:
    family = family_of(config)
    theirs = llama(sandwich=config["model_type"] == "ouro")
    state = {name: p.detach() for name, p in theirs.named_parameters()}
    spec = spec_from_config(family, config)
    ours = to_torch(spec)
    ours.load_state_dict(tensors_by_our_names(family, ours.graph, state))
    with torch.no_grad():
        expected = looped(theirs, trips, between, IDS)
        torch.testing.assert_close(ours.eval()(IDS), expected, atol=1e-4, rtol=1e-4)
        if trips > 1:
            more = looped(theirs, trips + 1, between, IDS)
            torch.testing.assert_close(ours(IDS, rounds=trips + 1), more, atol=1e-4, rtol=1e-4)
    back = tensors_by_their_names(family, ours.graph, ours.state_dict())
    assert all("early_exit_gate" in name for name in state.keys() - back.keys())
    assert all(torch.equal(value, state[name]) for name, value in back.items())
    again = spec_from_config(family, config_from_spec(family, spec))
    assert fingerprint(again) == fingerprint(spec)


def test_every_form_of_a_looped_decoder_agrees() -> None:
    rows = verify(spec_from_config(family_of(NANBEIGE), NANBEIGE))
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]


def test_an_ouro_is_what_the_kind_ouro_makes() -> None:
    read = spec_from_config(family_of(OURO), OURO)
    same: dict[str, Any] = {"width": 32, "heads": 4, "kv_heads": 2, "head_dim": 16, "context": 64}
    same |= {"mlp_width": 45, "vocab_size": 67, "norm_eps": 1e-6, "rope_theta": 70000.0}
    assert fingerprint(read) == fingerprint(model_spec("A[4]^3", kind="ouro", **same))


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({**OURO, "early_exit_threshold": 0.5}, "early_exit_threshold"),
        ({**NANBEIGE, "loop_share_kv": True}, "loop_share_kv"),
        ({**NANBEIGE, "kv_channels": 8}, "kv_channels"),
        ({"model_type": "hrm_text"}, "two states"),
        ({"model_type": "albert"}, "masked tokens"),
        ({"model_type": "huginn_raven"}, "noise"),
    ],
)
def test_what_no_kind_computes_is_named(config: dict[str, Any], match: str) -> None:
    with pytest.raises(SpecError, match=match):
        spec_from_config(family_of(config), config)


def test_a_model_that_loops_keeps_its_blocks() -> None:
    assert spec_from_config(family_of(OURO), OURO, "A[4]^5").text == "A[4]^5"
    with pytest.raises(SpecError, match="other-blocks"):
        spec_from_config(family_of(OURO), OURO, "A[2]B[2]")
