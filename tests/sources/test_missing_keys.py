"""A key that a config leaves out means what transformers makes of it, or is one error."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rinsc.errors import Problem, SpecError
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


JUNK: tuple[Any, ...] = (
    *(None, -1, 0, 2.5, "x", True, 1e30, float("nan"), 10**30),
    *([], [1], ["full_attention", 3], {}, {"a": 1}, {"rope_type": ["x"]}),
)


def keys_of(table: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every key of a config, those of its tables too."""
    for key, value in table.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from keys_of(value, (*path, key))


@given(case=st.sampled_from(sorted(CASES)), data=st.data(), junk=st.sampled_from(JUNK))
@settings(max_examples=200, deadline=None)
def test_a_value_that_makes_no_sense_is_an_error_or_is_read(
    case: str, data: st.DataObject, junk: Any
) -> None:
    config = written(config_of(case))
    *path, key = data.draw(st.sampled_from(sorted(keys_of(config))))
    table = config
    for name in path:
        table = table[name]
    table[key] = junk
    refused: list[Problem] = []
    try:
        spec_of(config)
    except SpecError as error:
        refused += error.problems
    assert all(problem.hint for problem in refused)
