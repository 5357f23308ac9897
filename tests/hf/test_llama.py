"""A Llama with its weights copied, against ``LlamaForCausalLM``: logits, tokens, beams, loss."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from rinsc.backends.hf import causal_lm
from tests.hf.models import ids
from tests.torch.test_transformers import copy_llama, llama_reference, llama_spec, randomise


def llamas(*, kv_heads: int = 2, tied: bool = True, head_dim: int | None = None) -> tuple[Any, Any]:
    spec = llama_spec(kv_heads=kv_heads, tied=tied, head_dim=head_dim)
    reference = llama_reference(spec)
    randomise(reference)
    ours: Any = causal_lm(spec)
    ours.eval()
    copy_llama(ours.model, reference)
    return ours, reference


def padded(spec: Any) -> dict[str, torch.Tensor]:
    mask = torch.ones(3, 11, dtype=torch.long)
    mask[1, :4] = 0
    mask[2, :1] = 0
    return {"input_ids": ids(spec, 3, 11), "attention_mask": mask}


@pytest.mark.parametrize(("kv_heads", "tied"), [(1, True), (2, False), (4, True)])
def test_logits_and_loss_with_padding(kv_heads: int, tied: bool) -> None:
    ours, reference = llamas(kv_heads=kv_heads, tied=tied)
    batch = padded(ours.model.spec)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    with torch.no_grad():
        mine, theirs = (model(**batch, labels=labels) for model in (ours, reference))
    counted = batch["attention_mask"] == 1
    torch.testing.assert_close(mine.logits[counted], theirs.logits[counted], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(mine.loss, theirs.loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("cache", ["dynamic", "static"])
@pytest.mark.parametrize(("beams", "head_dim"), [(1, None), (4, None), (1, 16), (4, 6)])
def test_the_same_tokens(beams: int, head_dim: int | None, cache: str) -> None:
    ours, reference = llamas(head_dim=head_dim)
    named: dict[str, Any] = {"max_new_tokens": 12, "do_sample": False, "num_beams": beams}
    named |= {"cache_implementation": cache, "pad_token_id": 0, "eos_token_id": 5}
    batch = padded(ours.model.spec)
    assert torch.equal(ours.generate(**batch, **named), reference.generate(**batch, **named))


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("mask", [None, [[1, 0, 1, 1, 0, 0, 1], [0, 1, 0, 1, 1, 1, 0]]])
def test_tokens_left_out_within_a_prompt(mask: Any, use_cache: bool) -> None:
    """Without a mask ``generate`` takes every token of the pad's id for padding."""
    ours, reference = llamas()
    input_ids = ids(ours.model.spec, 2, 7).clamp(min=1)
    input_ids[0, 1] = input_ids[1, 5] = 0
    named: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    named |= {"use_cache": use_cache, "output_logits": True, "return_dict_in_generate": True}
    if mask is not None:
        named["attention_mask"] = torch.tensor(mask)
    mine, theirs = (model.generate(input_ids, **named) for model in (ours, reference))
    assert torch.equal(mine.sequences, theirs.sequences)
    for found, expected in zip(mine.logits, theirs.logits, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_packed_documents_as_transformers_packs_them() -> None:
    ours, reference = llamas()
    input_ids = ids(ours.model.spec, 2, 12)
    positions = torch.tensor([[*range(5), *range(7)], [*range(9), *range(3)]])
    with torch.no_grad():
        mine = ours(input_ids, position_ids=positions).logits
        theirs = reference(input_ids, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def test_sabotage_another_rotary_base_is_seen() -> None:
    _, reference = llamas()
    other: Any = causal_lm(dataclasses.replace(llama_spec(kv_heads=2, tied=True), rope_theta=499.0))
    copy_llama(other.model, reference)
    batch = padded(other.model.spec)
    with torch.no_grad():
        difference = other.eval()(**batch).logits - reference(**batch).logits
    assert difference[0].abs().max() > 1e-2
