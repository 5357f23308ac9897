"""The report: what it is asked for is checked, and it says what it counted."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rinsc.cost import FlopConvention, cost_report
from rinsc.errors import RinscError
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


def test_the_report_says_which_rounds_it_counted() -> None:
    spec = model_spec("A^3B", preset="tiny")
    assert cost_report(spec).rounds == {"A": 3}
    report = cost_report(spec, rounds=5, batch=2)
    data = json.loads(json.dumps(report.as_dict()))
    assert (data["rounds"], data["batch"]) == ({"A": 5}, 2)
    assert report.executed_layers == cost_report(model_spec("A^5B", preset="tiny")).executed_layers
