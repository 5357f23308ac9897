"""Sliding windows: a kind whose attention sees the last positions alone, in every form.

The oracle is Mistral's model of transformers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import MistralConfig, MistralForCausalLM

from rinsc.backends.hf import causal_lm
from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.torch import to_torch
from rinsc.cost import forward_flops
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.layers import LayerKind, layer_kind, register_kind
from rinsc.layers.mixing import attention, gated_mlp
from rinsc.ops import Add, RMSNorm
from rinsc.ops.program import Builder, Value
from rinsc.sources import tensors_by_our_names
from rinsc.sources.llama import LLAMA
from rinsc.spec import ModelSpec, model_spec
from rinsc.spec.kinds import in_this_program
from rinsc.spec.settings import KindSettings
from rinsc.verification import verify
from tests.onnx.models import lively_model, random_ids


@dataclasses.dataclass(frozen=True)
class Window:
    """How many positions a layer sees, its own among them."""

    window: int = 5


def local(b: Builder, x: Value, sides: dict[str, Value], spec: ModelSpec) -> Value:
    """The layer of llama, with a window."""
    with b.part("attention"):
        h = b(RMSNorm(spec.norm_eps), x, name="attention_norm")
        x = b(Add(), x, attention(b, h, spec, rotary=sides, window=b.settings.window))
    with b.part("mlp"):
        h = b(RMSNorm(spec.norm_eps), x, name="mlp_norm")
        return b(Add(), x, gated_mlp(b, h, spec))


@pytest.fixture(autouse=True)
def local_kind() -> Iterator[None]:
    llama = layer_kind("llama")
    kind = LayerKind(llama.embed, local, llama.head, llama.sides, settings=Window)
    register_kind("local", kind)
    yield
    del in_this_program["local"]


def spec_of(signature: str = "A", **values: Any) -> ModelSpec:
    sizes = {"layers": 2, "width": 32, "heads": 4, "kv_heads": 2, "mlp_width": 37}
    sizes |= {"vocab_size": 53, "context": 24}
    return model_spec(signature, **{"kind": "local", **sizes, **values})


@pytest.mark.parametrize("window", [1, 4, 30])
def test_logits_and_tokens_are_those_of_mistral(window: int) -> None:
    spec = spec_of(window=window, head_dim=16)
    config: Any = MistralConfig(  # type: ignore[call-arg]
        vocab_size=53,
        hidden_size=32,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=24,
        rms_norm_eps=spec.norm_eps,
        sliding_window=window,
        attn_implementation="eager",
        eos_token_id=None,  # else the id 2 ends a text
    )
    torch.manual_seed(window)
    reference: Any = MistralForCausalLM(config)
    reference.eval()
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.normal_(std=0.3)
    source = {name: tensor.numpy() for name, tensor in reference.state_dict().items()}
    named = tensors_by_our_names(LLAMA, build_graph(spec), source)
    own = {name: torch.from_numpy(value) for name, value in named.items()}
    ours: Any = causal_lm(spec)
    ours.eval()
    ours.model.load_state_dict(own)
    plain = to_torch(spec).eval()
    plain.load_state_dict(own)
    ids = torch.from_numpy(random_ids(spec, 3, 12))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    with torch.no_grad():
        expected, found = reference(**given).logits, ours(**given).logits
        torch.testing.assert_close(found[mask == 1], expected[mask == 1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(plain(ids)[0], expected[0], atol=1e-4, rtol=1e-4)
    if window == 1:  # the cache of transformers then keeps every token, and each is seen again
        return
    options: dict[str, Any] = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    assert torch.equal(ours.generate(**given, **options), reference.generate(**given, **options))


@pytest.mark.parametrize("window", [2, 4])
def test_every_cache_of_transformers_gives_the_same_tokens(window: int) -> None:
    """A static cache has room behind the keys, a dynamic one has none."""
    model: Any = causal_lm(spec_of(window=window))
    model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3, generator=torch.Generator().manual_seed(parameter.numel()))
    ids = torch.from_numpy(random_ids(model.model.spec, 2, 9))
    options: dict[str, Any] = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    options["attention_mask"] = torch.ones_like(ids)  # 0 is a token of the texts, too
    expected = model.generate(ids, use_cache=False, **options)
    for cache in ("dynamic", "static"):
        assert torch.equal(model.generate(ids, cache_implementation=cache, **options), expected)


def test_every_form_agrees_and_costs_are_exact() -> None:
    spec = spec_of("(A^2)B{kind=llama}", layers=4, window=3)
    assert [row for row in verify(spec) if not row.passed] == []


def test_a_local_block_beside_a_global_one_has_a_mask_of_its_own() -> None:
    """Every second layer local: two blocks in turn, the window on one of them."""
    spec = spec_of("A[1]B[1]{kind=llama}A B", window=3)
    model = lively_model(spec)
    ids = random_ids(spec, 2, 11)
    wide = to_torch(
        dataclasses.replace(spec, settings=KindSettings({"local": {"window": 11}}))
    ).eval()
    wide.load_state_dict(model.state_dict())
    with torch.no_grad():
        found = model(torch.from_numpy(ids))
        assert (wide(torch.from_numpy(ids)) - found).abs().max() > 1e-2
    in_onnx = Session(to_onnx(model), threads=1).logits(ids)
    np.testing.assert_allclose(in_onnx, found.numpy(), rtol=0, atol=1e-4)


def test_the_window_is_part_of_the_model_and_of_the_cost() -> None:
    near, far = spec_of(window=3), spec_of(window=4)
    assert fingerprint(near) != fingerprint(far)
    with FlopCounterMode(display=False) as counter:
        to_torch(near, device="meta")(torch.zeros(1, 20, dtype=torch.long, device="meta"))
    assert forward_flops(build_graph(near), 20).total == counter.get_total_flops()
