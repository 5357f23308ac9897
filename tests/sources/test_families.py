"""Every family against its class in transformers, in small models with random weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PretrainedConfig

from rinsc import fingerprint, verify
from rinsc.backends.hf import causal_lm
from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.torch import to_torch
from rinsc.cost import forward_flops
from rinsc.sources import (
    FAMILIES,
    Family,
    config_from_spec,
    family_of,
    spec_from_config,
    tensor_names,
    tensors_by_our_names,
    tensors_by_their_names,
)
from rinsc.spec import ModelSpec

SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 45,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 67,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
HEAD = {"head_dim": 16}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 900.0, "factor": 8.0, "low_freq_factor": 1.0}
LLAMA3 |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"rope_type": "yarn", "rope_theta": 700.0, "factor": 4.0, "beta_fast": 3.0}
YARN |= {"original_max_position_embeddings": 16}
LINEAR = {"rope_type": "linear", "rope_theta": 900.0, "factor": 8.0}
PLAIN = {"rope_type": "default", "rope_theta": 50.0}
LONG: dict[str, Any] = {"rope_type": "longrope", "rope_theta": 900.0}
LONG |= {"short_factor": [1.0, 1.25, 1.5, 2.0], "long_factor": [1.5, 2.0, 4.0, 8.0]}
CASES: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "llama": (hf.LlamaConfig, {"rope_parameters": dict(LLAMA3), "attention_bias": True}),
    "llama of biases": (hf.LlamaConfig, {"mlp_bias": True, **HEAD, "rope_parameters": YARN}),
    "mistral": (hf.MistralConfig, {"sliding_window": 5, **HEAD}),
    "mistral without": (hf.MistralConfig, {"sliding_window": None}),
    "qwen2": (hf.Qwen2Config, {"rope_parameters": LINEAR}),
    "qwen2 of windows": (
        hf.Qwen2Config,
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2},
    ),
    "qwen3": (hf.Qwen3Config, {**HEAD, "attention_bias": True, "tie_word_embeddings": True}),
    "smollm3": (hf.SmolLM3Config, {"no_rope_layer_interval": 2}),
    "smollm3 of windows": (
        hf.SmolLM3Config,
        {"use_sliding_window": True, "sliding_window": 5, "no_rope_layers": [1, 0, 1, 1]},
    ),
    "gemma": (hf.GemmaConfig, {**HEAD}),
    "gemma2": (
        hf.Gemma2Config,
        {**HEAD, "sliding_window": 5, "query_pre_attn_scalar": 24}
        | {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 2.0},
    ),
    "gemma3": (
        hf.Gemma3TextConfig,
        {
            **HEAD,
            "sliding_window": 5,
            "query_pre_attn_scalar": 16,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
            "num_hidden_layers": 6,
            "rope_parameters": {"full_attention": LINEAR, "sliding_attention": PLAIN},
        },
    ),
    "olmo2": (hf.Olmo2Config, {}),
    "olmo3": (
        hf.Olmo3Config,
        {"sliding_window": 5}
        | {"rope_parameters": {"full_attention": YARN, "sliding_attention": PLAIN}},
    ),
    "phi3": (hf.Phi3Config, {"sliding_window": 5}),
    "phi3 of long": (
        hf.Phi3Config,
        {"rope_parameters": LONG, "original_max_position_embeddings": 20},
    ),
    "phi3 of a part": (
        hf.Phi3Config,
        {
            "rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5},
            "hidden_size": 128,
        },
    ),
    "gpt_neox": (hf.GPTNeoXConfig, {"rope_parameters": {**PLAIN, "partial_rotary_factor": 0.5}}),
    "gpt_neox in a row": (
        hf.GPTNeoXConfig,
        {"use_parallel_residual": False, "attention_bias": False, "tie_word_embeddings": True},
    ),
    "gpt2": (
        hf.GPT2Config,
        {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64, "n_inner": 45},
    ),
}


def config_of(case: str) -> PretrainedConfig:
    """A config of its own; `standardize` of transformers writes into what it is given."""
    kind, more = CASES[case]
    own = {key: value for key, value in SIZES.items() if hasattr(kind, key)}
    return kind(**copy.deepcopy({**own, **more}))


def theirs_of(case: str) -> Any:
    return theirs_with(config_of(case))


def theirs_with(config: PretrainedConfig) -> Any:
    """Their model, with weights of which none is like another."""
    torch.manual_seed(3)
    auto: Any = AutoModelForCausalLM
    # Only eager attention of theirs caps scores.
    model = auto.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too, so that a swap would show
            parameter.copy_(0.2 * torch.randn(parameter.shape))
    return model


def written(config: PretrainedConfig) -> dict[str, Any]:
    """What a config.json says."""
    values: dict[str, Any] = json.loads(config.to_json_string(use_diff=False))
    return values


def both(case: str, signature: str = "A") -> tuple[Family, ModelSpec, Any, Any]:
    """The family, our spec, our module with their weights, and their model."""
    return read(theirs_of(case), signature)


def read(theirs: Any, signature: str) -> tuple[Family, ModelSpec, Any, Any]:
    """What is read of a model of transformers, and the model."""
    config = written(theirs.config)
    family = family_of(config)
    spec = spec_from_config(family, config, signature)
    ours = to_torch(spec)
    ours.load_state_dict(tensors_by_our_names(family, ours.graph, stored(theirs)))
    return family, spec, ours.eval(), theirs


def stored(theirs: Any) -> dict[str, torch.Tensor]:
    """The tensors of the file that the class writes."""
    with TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        return load_file(f"{folder}/model.safetensors")


IDS = torch.randint(1, 67, (2, 40), generator=torch.Generator().manual_seed(1))


def test_every_family_has_a_case() -> None:
    of_remote_code = {"ouro", "nanbeige"}  # which have tests of their own
    cases = {written(config_of(case))["model_type"] for case in CASES}
    assert cases == FAMILIES.keys() - of_remote_code


@pytest.mark.parametrize("case", CASES)
def test_logits_and_gradients_are_those_of_the_class(case: str) -> None:
    """Also beyond every window, and in two lengths, as LongRoPE goes by the length."""
    family, _, ours, theirs = both(case, "A[1]B" if "2" in case else "A")
    for ids in (IDS, IDS[:, :15]):
        expected = theirs(ids).logits
        assert expected.std() > 0.05
        torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=1e-4)
    for model, logits in ((ours, ours(IDS)), (theirs, theirs(IDS).logits)):
        model.zero_grad()
        loss: Any = torch.nn.functional.cross_entropy(
            logits[:, :-1].flatten(0, 1), IDS[:, 1:].flatten()
        )
        loss.backward()
    own = {name: p.grad for name, p in ours.named_parameters()}
    grads = tensors_by_their_names(family, ours.graph, own)
    if "embed_out.weight" in grads:  # which transformers renames in loading
        grads["lm_head.weight"] = grads.pop("embed_out.weight")
    for name, parameter in theirs.named_parameters():
        scale = float(parameter.grad.abs().max()) + 1e-6
        torch.testing.assert_close(grads[name] / scale, parameter.grad / scale, atol=1e-3, rtol=0)


@pytest.mark.parametrize("case", CASES)
def test_names_and_config_go_there_and_back(case: str, tmp_path: Path) -> None:
    family, spec, ours, theirs = both(case)
    state = stored(theirs)
    assert set(tensor_names(family, ours.graph).values()) == set(state)
    back = tensors_by_their_names(family, ours.graph, ours.state_dict())
    assert back.keys() == state.keys()
    assert all(torch.equal(back[name], value) for name, value in state.items())
    arrays = {name: value.numpy() for name, value in state.items()}
    in_numpy = tensors_by_our_names(family, ours.graph, arrays)
    again = tensors_by_their_names(family, ours.graph, in_numpy)
    assert all(np.array_equal(again[name], value) for name, value in arrays.items())
    config = type(theirs.config)(**config_from_spec(family, spec), pad_token_id=0)
    assert spec_from_config(family, written(config)) == spec
    config.save_pretrained(tmp_path)
    save_file(back, tmp_path / "model.safetensors", {"format": "pt"})
    auto: Any = AutoModelForCausalLM
    model = auto.from_pretrained(tmp_path, attn_implementation="eager")
    with torch.no_grad():
        torch.testing.assert_close(model(IDS).logits, theirs(IDS).logits, atol=1e-5, rtol=1e-5)


def twice(theirs: Any) -> Any:
    """Their model, its layers called once more by a plain list of them."""
    inner = theirs.base_model
    name = "h" if hasattr(inner, "h") else "layers"
    layers = getattr(inner, name)
    setattr(inner, name, torch.nn.ModuleList([*layers, *layers]))
    theirs.config.num_hidden_layers = 2 * len(layers)
    if getattr(theirs.config, "layer_types", None):
        theirs.config.layer_types = list(theirs.config.layer_types) * 2
    return theirs


@pytest.mark.parametrize("case", CASES)
def test_two_rounds_are_layers_called_twice(case: str) -> None:
    _, _, ours, theirs = both(case, "A^2")
    with torch.no_grad():
        once = theirs(IDS, use_cache=False).logits
        torch.testing.assert_close(ours(IDS, rounds=1), once, atol=1e-4, rtol=1e-4)
        expected = twice(theirs)(IDS, use_cache=False).logits
        torch.testing.assert_close(ours(IDS), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_generation_is_that_of_the_class(case: str) -> None:
    """Behind a cache and beyond the window, of a batch with padding on the left."""
    _, spec, ours, theirs = both(case)
    hosted: Any = causal_lm(spec)
    hosted.model.load_state_dict(ours.state_dict())
    hosted.eval()
    prompt = IDS[:, :9].clone()
    mask = torch.ones_like(prompt)
    prompt[0, :3], mask[0, :3] = 0, 0
    options = {"max_new_tokens": 8, "do_sample": False, "attention_mask": mask, "pad_token_id": 0}
    expected = theirs.generate(prompt, eos_token_id=None, **options)
    assert hosted.generate(prompt, **options).tolist() == expected.tolist()


@pytest.mark.parametrize("case", CASES)
def test_bfloat16_is_within_its_rounding(case: str) -> None:
    _, spec, ours, theirs = both(case)
    hosted: Any = causal_lm(spec)
    hosted.model.load_state_dict(ours.state_dict())
    with torch.no_grad():
        exact = theirs(IDS).logits
        off = (theirs.to(torch.bfloat16)(IDS).logits - exact).abs().mean()
        own = (hosted.eval().to(torch.bfloat16)(IDS).logits - exact).abs().mean()
    assert own < 1.5 * off


TRAITS = ("llama of biases", "gemma2", "gemma3", "olmo3", "phi3 of long", "gpt_neox")


@pytest.mark.parametrize("case", TRAITS)
def test_every_form_agrees_and_flops_are_those_counted(case: str) -> None:
    config = written(config_of(case))
    spec = spec_from_config(family_of(config), config, "A^2")
    rows = verify(spec)
    assert all(row.passed for row in rows), [row for row in rows if not row.passed]
    model = to_torch(spec, device="meta")
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 40, dtype=torch.long, device="meta"))
    assert forward_flops(model.graph, 40).total == counter.get_total_flops()


@pytest.mark.parametrize("case", CASES)
def test_onnx_with_and_without_fused_operators_has_the_tokens_of_the_class(case: str) -> None:
    """With a cache, beyond the window, and the rounds as an input."""
    _, _, ours, theirs = both(case)
    with torch.no_grad():
        expected = theirs(IDS).logits.numpy()
    prompt = IDS[0, :15].tolist()
    tokens = theirs.generate(IDS[:1, :15], max_new_tokens=9, do_sample=False, eos_token_id=None)
    for portable in (False, True):
        model = to_onnx(ours, cache=True, rounds="dynamic", portable=portable)
        assert ("GroupQueryAttention" in str(model.ir)) is not portable
        session = Session(model)
        np.testing.assert_allclose(session.logits(IDS.numpy()), expected, atol=2e-4, rtol=2e-4)
        new = session.generate(prompt, 9)
        assert [*prompt, *new] == tokens[0].tolist()


TYPES = st.lists(st.sampled_from(["full_attention", "sliding_attention"]), min_size=4, max_size=4)


@st.composite
def configs(draw: st.DrawFn) -> PretrainedConfig:
    """A config of a family with values that no published model need have."""
    kv_heads = draw(st.integers(1, 2))
    own: dict[str, Any] = {
        **SIZES,
        "num_key_value_heads": kv_heads,
        "num_attention_heads": kv_heads * draw(st.integers(1, 2)),
        "tie_word_embeddings": draw(st.booleans()),
    }
    own |= {"hidden_size": own["num_attention_heads"] * draw(st.sampled_from([8, 12]))}
    bias, window = draw(st.booleans()), draw(st.integers(1, 30))
    head = {"head_dim": draw(st.sampled_from([6, 16]))}
    types = {"layer_types": draw(TYPES), "sliding_window": window}
    choices: list[tuple[Any, dict[str, Any]]] = [
        (hf.LlamaConfig, head | {"attention_bias": bias, "mlp_bias": not bias}),
        (hf.MistralConfig, head | {"sliding_window": window}),
        (hf.Qwen2Config, types | {"use_sliding_window": True}),
        (hf.Qwen3Config, head | types | {"use_sliding_window": True}),
        (hf.Gemma2Config, head | types | {"attention_bias": bias}),
        (hf.Gemma3TextConfig, head | types | {"query_pre_attn_scalar": window}),
        (hf.Olmo3Config, types | {"attention_bias": bias}),
        (
            hf.SmolLM3Config,
            {"no_rope_layers": [window % 2, 1, 0, int(bias)], "mlp_bias": bias},
        ),
    ]
    kind, more = draw(st.sampled_from(choices))
    config: PretrainedConfig = kind(**{**own, **more})
    return config


@given(config=configs(), signature=st.sampled_from(["A", "A[1]B[3]"]))
@settings(max_examples=25, deadline=None)
def test_drawn_configs_give_their_logits_and_come_back(
    config: PretrainedConfig, signature: str
) -> None:
    family, spec, ours, theirs = read(theirs_with(config), signature)
    with torch.no_grad():
        torch.testing.assert_close(ours(IDS), theirs(IDS).logits, atol=1e-4, rtol=1e-4)
    kind: Any = type(config)
    again = kind(**config_from_spec(family, spec), pad_token_id=0)
    assert fingerprint(spec_from_config(family, written(again))) == fingerprint(spec)
