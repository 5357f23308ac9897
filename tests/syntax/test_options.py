"""The closed list of options, what they may be together, and what they can draw."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from rinsc.errors import SignatureError, Span
from rinsc.syntax import bind, parse
from rinsc.syntax.expand import most_rounds
from rinsc.syntax.options import RULES, largest_draw
from rinsc.syntax.settings import repeat_options
from rinsc.syntax.tree import repeats


def _sample_texts() -> list[str]:
    """Every text of the corpus that has options."""
    lines = (Path(__file__).parent / "valid.txt").read_text(encoding="utf-8").splitlines()
    return [line.split("|")[0] for line in lines if "{" in line.split("|")[0]]


def test_every_option_stands_in_the_corpus() -> None:
    written = set(re.findall(r"[a-z_]+(?=[=,}])", " ".join(_sample_texts())))
    assert {rule.name for rule in RULES} <= written


def test_each_default_is_a_value_that_its_own_check_accepts() -> None:
    assert all(rule.check(rule.default) for rule in RULES if rule.default is not None)


_DRAWS = [
    ("uniform(1, 4)", 4),
    ("choice(2, 7, 1)", 7),
    ("poisson_lognormal(32, 0)", 60),
    ("poisson_lognormal(32, 0.5)", 426),
    ("poisson_lognormal(1, 0.5)", 1),
]


@pytest.mark.parametrize(("sampler", "most"), _DRAWS)
def test_the_most_rounds_that_are_drawn(sampler: str, most: int) -> None:
    (repeat,) = repeats(parse(f"A^2{{sample={sampler}}}").body)
    sample = repeat_options(repeat.options).sample
    assert sample is not None
    assert largest_draw(sample) == most
    assert most_rounds(repeat) == max(2, most)


@pytest.mark.parametrize(
    "text",
    [
        "A^3{init=carry, skip=0, sample=uniform(1, 4), adapter_by=round, kv=own}",
        "A^3{grad=3}",
        "A^3{inject=add, grad=1, init=zero}",
        "A^r{grad=5}",
        "A^3{sample=poisson_lognormal(1, 9)}",
        "A^3{sample=uniform(1024, 1024)}",
    ],
)
def test_defaults_and_bounds_contradict_nothing(text: str) -> None:
    parse(text)


def test_gradients_are_checked_once_the_exponent_is_bound() -> None:
    free = parse("A^r{grad=5}B")
    assert bind(free, {"r": 5})
    for rounds in (4, 6):
        with pytest.raises(SignatureError) as caught:
            bind(free, {"r": rounds})
        assert caught.value.code == "contradicting-options"
        assert caught.value.span == Span(4, 10)
