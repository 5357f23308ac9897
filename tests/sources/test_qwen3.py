"""The family qwen3, against the class of transformers and the folders that it writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from rinsc.backends.torch import to_torch
from rinsc.errors import SpecError
from rinsc.graph import build_graph
from rinsc.sources import (
    config_from_spec,
    family_of,
    spec_from_config,
    tensor_names,
    tensors_by_our_names,
    tensors_by_their_names,
)
from rinsc.sources.qwen3 import QWEN3
from rinsc.spec import model_spec
from tests.sources import checkpoints
from tests.sources.checkpoints import DIMENSIONS

HEADS = {"head_dim": 10}  # not the width over the heads


def saved(folder: Path, **more: Any) -> tuple[dict[str, Any], dict[str, Any], Any]:
    return checkpoints.saved(folder, Qwen3Config(**(DIMENSIONS | HEADS | more)))


@pytest.mark.parametrize("signature", ["A", "A[2]B[1]"])
@pytest.mark.parametrize(
    "more", [{}, {"tie_word_embeddings": True}, {"rope_theta": 777.0}, {"num_key_value_heads": 4}]
)
def test_a_folder_of_transformers_gives_its_logits(
    tmp_path: Path, signature: str, more: dict[str, Any]
) -> None:
    config, tensors, model = saved(tmp_path, **more)
    family = family_of(config)
    assert family is QWEN3
    ours = to_torch(spec_from_config(family, config, signature))
    own = tensors_by_our_names(family, ours.graph, tensors)
    ours.load_state_dict({name: torch.from_numpy(value) for name, value in own.items()})
    ids = torch.arange(30)[None] % 67
    with torch.no_grad():
        expected = model(ids).logits
        torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=1e-4)
    assert expected.std() > 0.1


def test_the_way_back_is_a_model_that_transformers_loads() -> None:
    settings = {"decoder": {"head_norm": True}}
    spec = model_spec(
        "A[2]B[1]", preset="tiny", layers=3, vocab_size=67, kind="decoder", settings=settings
    )
    config = Qwen3Config(**config_from_spec(QWEN3, spec))
    ours = to_torch(spec)
    model: Any = Qwen3ForCausalLM(config)
    theirs = tensors_by_their_names(QWEN3, ours.graph, ours.state_dict())
    missing, surplus = model.load_state_dict(theirs, strict=False)
    assert (missing, surplus) == (["lm_head.weight"], [])  # tied, as in the spec
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), model.eval()(ids).logits, atol=1e-5, rtol=1e-5)
    assert spec_from_config(QWEN3, config.to_dict(), "A[2]B[1]") == spec
    names = tensor_names(QWEN3, build_graph(spec)).values()
    assert sum("q_norm" in name or "k_norm" in name for name in names) == 6


def test_a_stack_without_norms_of_heads_is_no_qwen3() -> None:
    spec = model_spec("A", preset="tiny", kind="decoder")
    with pytest.raises(SpecError, match="other settings of decoder than a qwen3"):
        config_from_spec(QWEN3, spec)


def test_layers_with_a_window_are_refused() -> None:
    config = Qwen3Config(**(DIMENSIONS | HEADS)).to_dict()
    config["layer_types"] = ["full_attention", "sliding_attention", "full_attention"]
    with pytest.raises(SpecError, match="have a window"):
        spec_from_config(QWEN3, config)
    without = {key: value for key, value in DIMENSIONS.items() if key != "head_dim"}
    assert spec_from_config(QWEN3, {"model_type": "qwen3", **without}).head_dim == 128
