"""A key that a config leaves out means what transformers makes of it, or is one error."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from rinsc.errors import SpecError
from rinsc.sources import config_from_spec, family_of, spec_from_config
from rinsc.sources.llama import LLAMA
from rinsc.spec import ModelSpec, model_spec
from tests.sources.test_families import CASES, config_of, written


def spec_of(config: dict[str, Any]) -> ModelSpec:
    return spec_from_config(family_of(config), config)


@pytest.mark.parametrize("case", CASES)
def test_without_a_key_a_model_is_transformers_or_refused(case: str) -> None:
    whole = written(config_of(case))
    for key in sorted(whole.keys() - {"model_type"}):
        config = {name: value for name, value in whole.items() if name != key}
        refused = None
        try:
            own = spec_of(copy.deepcopy(config))
        except SpecError as error:
            refused = error
        if refused is not None:
            assert refused.code == "missing-key", refused
            assert key in str(refused)
            continue
        meant = written(type(config_of(case)).from_dict(copy.deepcopy(config)))
        assert own == spec_of(meant), key


def test_a_stack_in_the_frame_of_another_kind_has_no_config() -> None:
    spec = model_spec("A{kind=llama}", preset="tiny", kind="gpt")
    with pytest.raises(SpecError) as caught:
        config_from_spec(LLAMA, spec)
    assert caught.value.code == "not-a-plain-stack"
