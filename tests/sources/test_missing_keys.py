"""A key that a config leaves out means what transformers makes of it, or is one error."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import LlamaConfig, Qwen3Config

from rinsc.errors import SpecError
from rinsc.sources import config_from_spec, family_of, spec_from_config
from rinsc.sources.llama import LLAMA
from rinsc.spec import ModelSpec, model_spec
from tests.sources.checkpoints import DIMENSIONS

CLASSES: dict[str, Any] = {"llama": LlamaConfig, "qwen3": Qwen3Config}


def whole(name: str) -> dict[str, Any]:
    own = {"rms_norm_eps": 3e-4, "tie_word_embeddings": True, "rope_theta": 777.0, "head_dim": 8}
    config: dict[str, Any] = json.loads(
        CLASSES[name](**DIMENSIONS, **own).to_json_string(use_diff=False)
    )
    return config


def spec_of(config: dict[str, Any]) -> ModelSpec:
    return spec_from_config(family_of(config), config)


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("key", sorted({*whole("llama"), *whole("qwen3")} - {"model_type"}))
def test_without_a_key_a_model_is_transformers_or_refused(name: str, key: str) -> None:
    config = whole(name)
    config.pop(key, None)
    refused = None
    try:
        found = spec_of(config)
    except SpecError as error:
        refused = error
    if refused is not None:
        assert refused.code == "missing-key"
        assert key in str(refused)
        return
    meant = json.loads(CLASSES[name].from_dict(config).to_json_string(use_diff=False))
    assert found == spec_of(meant)


def test_a_stack_in_the_frame_of_another_kind_has_no_config() -> None:
    spec = model_spec("A{kind=llama}", preset="tiny", kind="gpt")
    with pytest.raises(SpecError) as caught:
        config_from_spec(LLAMA, spec)
    assert caught.value.code == "not-a-plain-stack"
