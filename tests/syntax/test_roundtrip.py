"""Text to tree and back; the visits of the tree against those of the text."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import find, given, settings

from rinsc.syntax import Signature, expand, parse, to_text, visit_count
from tests.strategies import signatures
from tests.syntax import oracle


@settings(max_examples=200)
@given(signatures(max_visits=60, options=True))
def test_print_and_parse_are_inverse(text: str) -> None:
    tree = parse(text)
    printed = to_text(tree)
    assert parse(printed) == tree
    assert to_text(parse(printed)) == printed


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
