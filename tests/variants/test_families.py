"""Families: as many members as promised, none twice, every form of recursion among them."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest

from rinsc.errors import SpecError
from rinsc.fingerprints import fingerprint
from rinsc.spec import model_spec
from rinsc.spec.presets import PRESETS
from rinsc.syntax import canonical, parse
from rinsc.variants.enumerate import family

SIGNATURES = [member.signature for member in family("rins")]


def test_there_are_at_least_sixty_in_canonical_spelling() -> None:
    assert len(SIGNATURES) >= 60
    assert [canonical(signature) for signature in SIGNATURES] == SIGNATURES


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_no_two_are_the_same_model(preset: str) -> None:
    assert repeated(SIGNATURES, preset) == []


def test_two_spellings_of_one_model_are_seen() -> None:
    assert repeated([*SIGNATURES, "ABAB"], "tiny") == ["A^2 is ABAB"]


def repeated(signatures: list[str], preset: str) -> list[str]:
    base = model_spec("A", preset=preset)
    found: dict[str, str] = {}
    twice = []
    for signature in signatures:
        key = fingerprint(replace(base, signature=parse(signature)))
        if key in found:
            twice.append(f"{found[key]} is {signature}")
        found[key] = signature
    return twice


def test_every_form_that_the_comparison_needs_is_there() -> None:
    forms = {"A^2B", "AB^2", "ABA", "A^2", "A^2B^2", "AB^2A", "ABC^2"}
    forms |= {f"A^{r}B" for r in (2, 3, 4)} | {f"AB^{r}C" for r in (2, 3, 4)}
    assert forms <= set(SIGNATURES)
    assert {int(power) for text in SIGNATURES for power in re.findall(r"\^(\d)", text)} >= {2, 3, 4}
    degrees = Counter(parse(signature).degree for signature in SIGNATURES)
    assert set(degrees) == {1, 2, 3}
    ideas = " ".join(member.idea for member in family("rins"))
    assert all(idea in ideas for idea in ("early", "middle", "late", "total"))


def test_an_unknown_family_names_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'rins'"):
        family("rinz")
