"""The closed list of options, and which of them can be compiled."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rinsc.errors import SignatureError
from rinsc.syntax import parse, require_lowered
from rinsc.syntax.options import RULES


def _sample_texts() -> list[str]:
    """Every text of the corpus that has options."""
    lines = (Path(__file__).parent / "valid.txt").read_text(encoding="utf-8").splitlines()
    return [line.split("|")[0] for line in lines if "{" in line.split("|")[0]]


def test_every_option_stands_in_the_corpus() -> None:
    written = set(re.findall(r"[a-z_]+(?=[=,}])", " ".join(_sample_texts())))
    assert {rule.name for rule in RULES} <= written


def test_each_default_is_a_value_that_its_own_check_accepts() -> None:
    assert all(rule.check(rule.default) for rule in RULES if rule.default is not None)


@pytest.mark.parametrize(
    ("text", "option"),
    [
        ("A^3{skip=0.5}B", "skip=0.5"),
        ("AB{each=1, reverse}", "reverse"),
        ("(A{each=1}^2{kv=own}B)^2{grad=3, kv=first}", "grad=3"),
        ("(A^2{inject=add}B{each=2})^2", "inject=add"),
    ],
)
def test_the_first_option_that_cannot_be_compiled_is_named(text: str, option: str) -> None:
    with pytest.raises(SignatureError) as caught:
        require_lowered(parse(text))
    span = caught.value.span
    assert caught.value.code == "not-supported-yet"
    assert span is not None
    assert text[span.start : span.end] == option


@pytest.mark.parametrize(
    "text", ["A^3B", "A{each=1}^3{skip=0, init=carry, kv=own, adapter_by=round}", "A^rB@2"]
)
def test_defaults_can_be_compiled(text: str) -> None:
    require_lowered(parse(text))
