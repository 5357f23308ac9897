"""The report: what it is asked for is checked, and it says what it counted."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest

from rinsc.cost import FlopConvention, cost_report
from rinsc.cost.counts import checked_counts
from rinsc.errors import RinscError, SpecError
from rinsc.spec import model_spec


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({"seq": -5}, "bad-count"),
        ({"seq": 0}, "bad-count"),
        ({"seq": 8.0}, "bad-count"),
        ({"seq": True}, "bad-count"),
        ({"seq": 10**5}, "beyond-context"),
        ({"batch": -1}, "bad-count"),
        ({"batch": 10**5000}, "bad-count"),
        ({"precision": "fp16"}, "unknown-precision"),
        ({"rounds": 0}, "bad-rounds"),
        ({"rounds": {"B": 2}}, "unknown-repeat"),
    ],
)
def test_what_makes_no_sense_is_refused(asked: dict[str, Any], code: str) -> None:
    with pytest.raises(RinscError) as caught:
        cost_report(model_spec("A^3B", preset="tiny"), **asked)
    assert caught.value.code == code
    assert caught.value.hint


def test_an_unknown_convention_is_refused() -> None:
    wrong: Any = "none"
    with pytest.raises(RinscError, match="bad-convention"):
        FlopConvention(causal=wrong)


def test_a_drawn_variant_has_training_figures_in_expectation() -> None:
    spec = model_spec("((A^3{skip=0.5})B)^2C^2", preset="tiny", layers=3)
    report = cost_report(spec)
    assert report.rounds == {"AB": 2, "A": 3, "C": 2}
    assert report.expected_rounds == {"AB": 2, "A": 2, "C": 2}
    assert report.drawn_repeats == ("A",)
    at_two = cost_report(spec, rounds={"A": 2})
    assert at_two.drawn_repeats == ()
    assert report.training_flops == at_two.training_flops == 3 * at_two.forward_flops
    assert report.forward_flops > at_two.forward_flops
    asked = cost_report(spec, rounds=3)
    assert asked.training_flops == 3 * asked.forward_flops


def test_json_has_whole_numbers_but_where_an_expectation_is_none() -> None:
    report = cost_report(model_spec("A^4{skip=0.3}B^2", preset="tiny", layers=2))
    data = json.loads(json.dumps(report.as_dict()))
    assert data["expected_rounds"] == {"A": 3.1, "B": 2}
    assert type(data["expected_rounds"]["B"]) is int
    assert type(data["training_flops"]) is type(data["training_flops_per_token"]) is int
    runs = Fraction(31, 10) + 2
    two = cost_report(model_spec("A^4B^2", preset="tiny", layers=2))
    layer = (
        two.forward_flops - cost_report(model_spec("AB", preset="tiny", layers=2)).forward_flops
    ) // 4
    frame = two.forward_flops - 6 * layer
    assert report.training_flops == round(3 * (frame + runs * layer))


def test_adapters_have_their_share() -> None:
    report = cost_report(model_spec("A^3{adapter=linear}B", preset="tiny"))
    width = report.params_by_block["repeat A"]
    assert report.adapter_params == width
    assert report.as_dict()["adapter_share"] == width / report.stored_params
    assert sum(report.params_by_block.values()) < report.stored_params
    assert report.forward.by_block["repeat A"] == report.forward.by_part["adapter"] > 0


def test_the_report_says_which_rounds_it_counted() -> None:
    spec = model_spec("A^3B", preset="tiny")
    assert cost_report(spec).rounds == {"A": 3}
    report = cost_report(spec, rounds=5, batch=2)
    data = json.loads(json.dumps(report.as_dict()))
    assert (data["rounds"], data["batch"]) == ({"A": 5}, 2)
    assert report.executed_layers == cost_report(model_spec("A^5B", preset="tiny")).executed_layers


def test_a_count_beyond_the_limit_names_it_and_shows_that_it_is_cut() -> None:
    with pytest.raises(SpecError) as caught:
        cost_report(model_spec("AB", preset="tiny"), seq=10**30)
    assert caught.value.message == f"seq must be a whole number from 1 to 1e18, not {10**30}"
    assert count_message(10**90).endswith("not " + "1".ljust(37, "0") + "...")
    assert count_message(10**18 + 1).endswith(f"not {10**18 + 1}")
    checked_counts(tokens=10**18)


def count_message(count: int) -> str:
    with pytest.raises(SpecError) as caught:
        checked_counts(tokens=count)
    return caught.value.message
