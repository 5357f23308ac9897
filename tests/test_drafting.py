"""Drafts change no token and no distribution: against plain decoding of a model made by hand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chi2_contingency

from rinsc.drafting import Drafting, Drafts, checked_drafting, stream_drafted
from rinsc.errors import RinscError, UsageError
from rinsc.generation import Request, stream_tokens, whole_rows
from rinsc.graph import Rounds, build_graph
from rinsc.sampling import Sampling
from rinsc.spec import model_spec

VOCAB, CONTEXT = 6, 12
DRAFTING = Drafting({"A": 1}, cost=0.2)

Logits = npt.NDArray[np.float64]


def logits_after(ids: Sequence[int], error: float = 0.0) -> Logits:
    """Numbers that depend on the last three ids; a draft's are off by ``error``."""
    seed = [int(token) + 1 for token in ids[-3:]]
    exact = np.random.default_rng(seed).normal(size=VOCAB)
    return exact + error * np.random.default_rng([*seed, 7]).normal(size=VOCAB)


@dataclass
class ByHand:
    """Rows that remember what they were given, and refuse what a cache could not do."""

    error: float
    kept: dict[int, list[int]] = field(default_factory=dict)
    behind: dict[int, list[int]] = field(default_factory=dict)
    calls: Counter[str] = field(default_factory=Counter)

    def begin(self, rows: Sequence[Sequence[int]]) -> list[Logits]:
        self.kept = {index: list(row) for index, row in enumerate(rows)}
        self.behind = {index: [] for index in self.kept}
        return [logits_after(row) for row in rows]

    def draft(self, live: Sequence[int], tokens: Sequence[int]) -> list[Logits]:
        self.calls["draft"] += len(live)
        logits = []
        for index, token in zip(live, tokens, strict=True):
            self.behind[index].append(token)
            ids = self.kept[index] + self.behind[index]
            assert len(ids) <= CONTEXT
            logits.append(logits_after(ids, self.error))
        return logits

    def verify(self, live: Sequence[int], tokens: Sequence[Sequence[int]]) -> list[Logits]:
        self.calls["verify"] += len(live)
        results = []
        for index, new in zip(live, tokens, strict=True):
            self.behind[index] = list(new)
            assert len(self.kept[index]) + len(new) <= CONTEXT
            prefixes = [self.kept[index] + list(new[: end + 1]) for end in range(len(new))]
            results.append(np.stack([logits_after(ids) for ids in prefixes]))
        return results

    def keep(self, live: Sequence[int], counts: Sequence[int]) -> None:
        for index, count in zip(live, counts, strict=True):
            assert 1 <= count <= len(self.behind[index])
            self.kept[index] += self.behind[index][:count]
            self.behind[index] = []

    def whole(self, ids: Sequence[int]) -> Logits:
        assert len(ids) == CONTEXT
        return logits_after(ids)


def plain(request: Request, sampling: Sampling) -> list[tuple[int | None, ...]]:
    return list(stream_tokens(whole_rows(logits_after, CONTEXT), request, sampling))


@given(
    st.lists(st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=CONTEXT), min_size=1),
    st.integers(0, 20),
    st.sampled_from([0.0, 0.3, 3.0]),
    st.frozensets(st.integers(0, VOCAB - 1), max_size=1),
)
def test_greedy_rows_are_those_of_plain_decoding(
    rows: list[list[int]], count: int, error: float, stops: frozenset[int]
) -> None:
    request = Request(tuple(map(tuple, rows)), count, stops)
    told = Drafts()
    drafted = stream_drafted(ByHand(error), request, Sampling(), DRAFTING, CONTEXT, drafts=told)
    assert list(drafted) == plain(request, Sampling())
    assert told.accepted <= sum(told.tried) <= told.drafted
    if error == 0:
        assert told.accepted == sum(told.tried)


@pytest.mark.parametrize(
    "settings",
    [{"temperature": 1.0}, {"temperature": 1.5, "top_k": 4}, {"temperature": 0.8, "top_p": 0.8}],
)
def test_draws_follow_the_distribution_of_plain_decoding(settings: dict[str, Any]) -> None:
    """Every continuation of three tokens, counted over thousands of seeds in one batch."""
    draws = 4000
    request = Request(((1, 2),) * draws, 3)
    sampling = Sampling(**settings, seed=5)
    told = Drafts()
    streams = [
        stream_drafted(ByHand(1.0), request, sampling, DRAFTING, CONTEXT, drafts=told),
        stream_tokens(whole_rows(logits_after, CONTEXT), request, Sampling(**settings, seed=9001)),
    ]
    counts = [Counter(zip(*stream, strict=True)) for stream in streams]
    assert 0.2 < told.accepted / sum(told.tried) < 0.95
    texts = sorted(set(counts[0]) | set(counts[1]), key=str)
    table = np.array([[count[text] for text in texts] for count in counts])
    often = table.sum(axis=0) >= 10
    table = np.concatenate([table[:, often], table[:, ~often].sum(axis=1, keepdims=True)], axis=1)
    table = table[:, table.sum(axis=0) > 0]
    assert chi2_contingency(table).pvalue > 1e-3


def test_a_row_draws_what_it_draws_alone() -> None:
    rows, sampling = ((1, 2), (3,), (0, 4, 5)), Sampling(1.0, seed=3)
    together = list(stream_drafted(ByHand(0.5), Request(rows, 15), sampling, DRAFTING, CONTEXT))
    for index, row in enumerate(rows):
        alone = Request((row,), 15)
        single = stream_drafted(
            ByHand(0.5), alone, Sampling(1.0, seed=3 + index), DRAFTING, CONTEXT
        )
        assert [step[index] for step in together] == [step[0] for step in single]


def test_only_the_tokenizers_vocabulary_is_chosen_from() -> None:
    request = Request(((1,),), 9)
    drafted = stream_drafted(ByHand(0.1), request, Sampling(), DRAFTING, CONTEXT, vocabulary=3)
    known = whole_rows(lambda ids: logits_after(ids)[:3], CONTEXT)
    assert list(drafted) == list(stream_tokens(known, request, Sampling()))


class Never(ByHand):
    """Drafts the least likely token; the context does not end."""

    def draft(self, live: Sequence[int], tokens: Sequence[int]) -> list[Logits]:
        self.calls["draft"] += len(live)
        last = zip(live, tokens, strict=True)
        return [-logits_after([*self.kept[index], token]) for index, token in last]


def test_drafts_that_are_never_accepted_are_given_up_and_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(f"{__name__}.CONTEXT", 2000)
    model = Never(0.0)
    assert (
        len(list(stream_drafted(model, Request(((1,),), 512), Sampling(), DRAFTING, 2000))) == 512
    )
    assert model.calls["verify"] == 511
    cost = DRAFTING.cost + 0.07
    assert model.calls["draft"] * cost < 0.03 * 512
    assert model.calls["draft"] > 6  # tried again


def test_good_drafts_save_most_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.CONTEXT", 2000)
    model = ByHand(0.0)
    list(stream_drafted(model, Request(((1,),), 512), Sampling(), DRAFTING, 2000))
    assert model.calls["verify"] < 512 / 5


GRAPH = build_graph(model_spec("(A^3)B(C^2)", preset="tiny"))


def test_repeats_that_are_left_out_run_as_in_the_passes() -> None:
    drafting = checked_drafting(GRAPH, {"A": 1}, {"A": 4, "C": 3})
    assert dict(drafting.rounds) == {"A": 1, "C": 3}
    assert 0 < drafting.cost < 1


@pytest.mark.parametrize(
    ("signature", "draft", "rounds", "words"),
    [
        ("(A^3)B", 4, 3, "above the rounds"),
        ("(A^3)B", 3, 3, "equals"),
        ("(A^3)B", 0, 3, "1"),
        ("(A^3)B", "A=1,D=2", 3, "D"),
        ("AB", 1, None, "has none"),
        ("A^3{init=noise, inject=add}B", 1, 3, "noise"),
        ("A^3{kv=first}B", 1, 3, "share"),
        ("A^3{kv=last}B", 1, 3, "share"),
    ],
)
def test_what_cannot_be_drafted_is_one_error(
    signature: str, draft: Rounds, rounds: Rounds, words: str
) -> None:
    graph = build_graph(model_spec(signature, preset="tiny"))
    with pytest.raises(RinscError, match=words) as caught:
        checked_drafting(graph, draft, rounds)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].hint
    assert draft == 0 or "D" in str(draft) or isinstance(caught.value, UsageError)
