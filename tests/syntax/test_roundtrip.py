"""Text to tree and back; the visits of the tree against those of the text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from hypothesis import find, given, settings

from rinsc.errors import SignatureError
from rinsc.syntax import Signature, canonical, expand, parse, to_text, visit_count
from rinsc.syntax.settings import visit_options
from tests.strategies import signatures
from tests.syntax import oracle


def _is_inverse(text: str, show: Callable[[Signature], str]) -> bool:
    try:
        return parse(show(parse(text))) == parse(text)
    except SignatureError:
        return False


@settings(max_examples=100)
@given(signatures(max_visits=40, options=True))
def test_print_and_parse_are_inverse(text: str) -> None:
    assert _is_inverse(text, to_text)
    assert to_text(parse(to_text(parse(text)))) == to_text(parse(text))


def test_a_printer_that_loses_something_is_caught() -> None:
    find(signatures(), lambda text: not _is_inverse(text, lambda sig: to_text(sig).strip("()")))
    find(signatures(), lambda text: not _is_inverse(text, canonical))


@settings(max_examples=200)
@given(signatures(max_visits=60))
def test_spans_cut_out_the_text_of_each_item(text: str) -> None:
    for item in (tree := parse(text)).body.items:
        assert parse(text[item.span.start : item.span.end]).body.items == (item,)
    assert tree.source == text


_Visits: TypeAlias = list[tuple[str, int, bool]]


def _visits_agree(text: str, expand: Callable[[Signature], _Visits]) -> bool:
    return expand(parse(text)) == [(v.part, v.each, v.reverse) for v in oracle.visits(text)]


def _expanded(sig: Signature) -> _Visits:
    visits = [(ref.letter, visit_options(ref.options)) for ref in expand(sig)]
    return [(letter, visit.each, visit.reverse) for letter, visit in visits]


@settings(max_examples=200)
@given(signatures(max_visits=100, block_options=True))
def test_visits_are_those_of_the_text(text: str) -> None:
    assert _visits_agree(text, _expanded)
    assert visit_count(parse(text)) == sum(visit.each for visit in oracle.visits(text))


_FEW_OPTIONS = signatures(max_visits=6, block_options=True)


def test_the_text_expander_can_disagree() -> None:
    find(_FEW_OPTIONS, lambda text: not _visits_agree(text, lambda sig: _expanded(sig)[:-1]))
    find(_FEW_OPTIONS, lambda text: not _visits_agree(text, lambda sig: sorted(_expanded(sig))))


def test_an_expander_blind_to_directions_is_caught() -> None:
    def forward(sig: Signature) -> _Visits:
        return [(part, each, False) for part, each, _ in _expanded(sig)]

    find(_FEW_OPTIONS, lambda text: not _visits_agree(text, forward))
