"""The family llama, against the class of transformers and the folders that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from rinsc.backends.torch import to_torch
from rinsc.errors import CheckpointError, SpecError
from rinsc.graph import build_graph
from rinsc.sources import (
    config_from_spec,
    family_of,
    spec_from_config,
    tensor_names,
    tensors_by_our_names,
    tensors_by_their_names,
)
from rinsc.sources.llama import LLAMA
from rinsc.spec import ModelSpec, model_spec
from tests.sources import checkpoints
from tests.sources.checkpoints import DIMENSIONS


def saved(folder: Path, **more: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
    return checkpoints.saved(folder, LlamaConfig(**(DIMENSIONS | more)))


@pytest.mark.parametrize("signature", ["A", "A[2]B[1]", "A[1]BC"])
@pytest.mark.parametrize(
    "more",
    [
        {},
        {"tie_word_embeddings": True},
        {"rms_norm_eps": 1e-3},
        {"num_key_value_heads": 4},
        {"rope_theta": 777.0},
        {"head_dim": 10},
    ],
)
def test_a_folder_of_transformers_gives_its_logits(
    tmp_path: Path, signature: str, more: dict[str, Any]
) -> None:
    config, tensors, model = saved(tmp_path, **more)
    family = family_of(config)
    ours = to_torch(spec_from_config(family, config, signature))
    own = tensors_by_our_names(family, ours.graph, tensors)
    ours.load_state_dict({name: torch.from_numpy(value) for name, value in own.items()})
    ids = torch.arange(30)[None] % 67
    with torch.no_grad():
        expected = model(ids).logits
        torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


def test_the_way_back_is_a_folder_that_transformers_loads(tmp_path: Path) -> None:
    spec = model_spec("A[2]B[1]", preset="tiny", layers=3, vocab_size=67, context=40)
    ours = to_torch(spec)
    model: Any = LlamaForCausalLM(LlamaConfig(**config_from_spec(LLAMA, spec)))
    model.eval()
    theirs = tensors_by_their_names(LLAMA, ours.graph, ours.state_dict())
    missing, surplus = model.load_state_dict(theirs, strict=False)
    assert (missing, surplus) == (["lm_head.weight"], [])  # tied, as in the spec
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), model(ids).logits, atol=1e-5, rtol=1e-5)


@settings(max_examples=30)
@given(
    heads=st.sampled_from((1, 2, 4)),
    width=st.sampled_from((8, 16, 24)),
    layers=st.integers(1, 6),
    tied=st.booleans(),
    base=st.sampled_from((10000.0, 500.0)),
    head_dim=st.sampled_from((None, 2, 6)),
)
def test_config_and_names_go_there_and_back(
    heads: int, width: int, layers: int, tied: bool, base: float, head_dim: int | None
) -> None:
    spec = model_spec(
        f"A[{layers}]",
        width=width * heads,
        heads=heads,
        mlp_width=11,
        vocab_size=13,
        context=9,
        tied_embedding=tied,
        rope_theta=base,
        head_dim=head_dim,
    )
    config = LlamaConfig(**config_from_spec(LLAMA, spec)).to_dict()
    assert spec_from_config(LLAMA, config, f"A[{layers}]") == spec
    graph = build_graph(spec)
    with torch.device("meta"):
        theirs: Any = LlamaForCausalLM(LlamaConfig(**config))
    expected = {name for name, _ in theirs.named_parameters()}
    assert set(tensor_names(LLAMA, graph).values()) == expected


@pytest.mark.parametrize(
    ("change", "code", "place"),
    [
        ({"hidden_act": "gelu_fast"}, "unsupported-value", "hidden_act"),
        ({"attention_bias": 3}, "bad-type", "settings.decoder.qkv_bias"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "unsupported-value", "rope_parameters"),
        ({"partial_rotary_factor": 0.5}, "unsupported-value", "rope_parameters"),
        ({"rope_scaling": "linear"}, "unsupported-value", "rope_parameters"),
        ({"head_dim": "wide"}, "bad-type", "head_dim"),
        ({"sliding_window": 8}, "unknown-key", "sliding_window"),
        ({"hidden_size": "big"}, "bad-type", None),
        ({"num_hidden_layers": None}, "missing-key", None),
    ],
)
def test_what_is_not_honoured_is_one_error(
    change: dict[str, object], code: str, place: str | None
) -> None:
    config = {**LlamaConfig(**DIMENSIONS).to_dict(), "rope_parameters": None, **change}
    with pytest.raises(SpecError) as caught:
        spec_from_config(LLAMA, config)
    assert caught.value.code == code
    assert place is None or str(caught.value.problems[0].place).endswith(place)


def test_an_unknown_family_is_named() -> None:
    with pytest.raises(SpecError, match="mamba"):
        family_of({"model_type": "mamba"})
    with pytest.raises(SpecError, match="None"):
        family_of({})


def small() -> tuple[ModelSpec, dict[str, Any]]:
    spec = model_spec("A[2]", width=8, heads=2, mlp_width=6, vocab_size=5, context=4)
    graph = build_graph(spec)
    ours = to_torch(spec).state_dict()
    return spec, tensors_by_their_names(LLAMA, graph, ours)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"model.norm.weight": None}, "missing-tensor"),
        ({"model.layers.2.mlp.up_proj.weight": np.zeros((6, 8))}, "surplus-tensor"),
        ({"model.layers.0.mlp.up_proj.weight": np.zeros((8, 6))}, "other-shape"),
    ],
)
def test_tensors_that_do_not_fit_are_errors(change: dict[str, Any], code: str) -> None:
    spec, tensors = small()
    changed = {key: value for key, value in (tensors | change).items() if value is not None}
    with pytest.raises(CheckpointError) as caught:
        tensors_by_our_names(LLAMA, build_graph(spec), changed)
    assert caught.value.code == code


def test_a_recursive_signature_is_no_plain_stack() -> None:
    spec = model_spec("A^2B", preset="tiny", layers=2)
    with pytest.raises(SpecError, match="not a plain stack"):
        config_from_spec(LLAMA, spec)
