"""Text to tree and back; the visits of the tree against those of the text."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import find, given, settings

from rinsc.errors import SignatureError
from rinsc.syntax import Signature, canonical, expand, parse, to_text, visit_count
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


def _visits_agree(text: str, expand: Callable[[Signature], list[str]]) -> bool:
    return expand(parse(text)) == oracle.visits(text)


def _names(sig: Signature) -> list[str]:
    return [ref.letter for ref in expand(sig)]


@settings(max_examples=200)
@given(signatures(max_visits=200))
def test_visits_are_those_of_the_text(text: str) -> None:
    assert _visits_agree(text, _names)
    assert visit_count(parse(text)) == len(oracle.visits(text))


def test_the_text_expander_can_disagree() -> None:
    find(signatures(), lambda text: not _visits_agree(text, lambda sig: _names(sig)[:-1]))
    find(signatures(), lambda text: not _visits_agree(text, lambda sig: sorted(_names(sig))))
