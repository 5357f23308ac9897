"""Self-speculative decoding: a model drafts tokens at few rounds and verifies them at all of them.

One cycle of a row whose last token is ``a``: drafts ``b c d`` at few rounds, then one pass over
``a b c d`` at all rounds. Where that pass would have chosen ``b c x``, the row goes on with
``b c x``, and its last token is ``x``: three tokens for one pass. What is drawn follows the very
distribution of plain decoding: a draft drawn from q stays with the probability min(1, p / q), else
one is drawn from what p has more than q (arXiv 2211.17192, theorem in appendix A.1).

Needs numpy alone; each runtime brings its passes as `DraftedRows`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rinsc.errors import UsageError, setting
from rinsc.generation import Request, RowLogits, Settings, stream_tokens
from rinsc.graph import BlockGraph, Rounds, resolve_rounds
from rinsc.sampling import Sampling, kept_candidates, sample_next

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from rinsc.sampling import Logits

    Shares = npt.NDArray[np.float64]

__all__ = [
    "DraftSettings",
    "DraftedRows",
    "Drafting",
    "Drafts",
    "checked_drafting",
    "stream_chosen",
    "stream_drafted",
]

MOST_TOKENS = 8
TOKEN_COST = 0.07  # what each further token adds to a pass, in passes of one token
CLEAR_GAIN = 1.03  # what drafts must promise before they are made


class DraftSettings(Settings, total=False):
    """What generation is told by keyword where it can draft."""

    draft_rounds: Rounds


@dataclass(frozen=True)
class Drafting:
    """Rounds of the drafts by repeat, and what one drafted token costs, in plain ones."""

    rounds: Mapping[str, int]
    cost: float
    most_tokens: int = MOST_TOKENS


@dataclass
class Drafts:
    """What came of the drafts: at place i of their run, so many tried and so many accepted.

    ``tried`` leaves out what stood behind a refused draft; ``drafted`` counts it too. ``passes``
    are those at all rounds, one a row.
    """

    drafted: int = 0
    passes: int = 0
    tried: list[int] = field(default_factory=list)
    hits: list[int] = field(default_factory=list)

    @property
    def accepted(self) -> int:
        return sum(self.hits)

    @property
    def text(self) -> str:
        """How many were accepted, in words."""
        rate = f" ({self.accepted / self.drafted:.0%})" if self.drafted else ""
        return f"drafts: {self.accepted} of {self.drafted} accepted{rate}"

    def add(self, drafted: int, accepted: int) -> None:
        """One pass, which accepted so many of what was drafted."""
        self.passes += 1
        self.drafted += drafted
        missing = drafted - len(self.tried)
        self.tried += [0] * missing
        self.hits += [0] * missing
        for place in range(min(accepted + 1, drafted)):
            self.tried[place] += 1
            self.hits[place] += place < accepted


class DraftedRows(Protocol):
    """Sequences behind a cache, each with a length of its own that can be taken back.

    Rows are named by their index in what `begin` was given. The logits that a call gives may be
    overwritten by the next call.
    """

    def begin(self, rows: Sequence[Sequence[int]]) -> Sequence[Logits]:
        """Run the prompts at all rounds and keep them: the logits (vocab,) after each."""

    def draft(self, live: Sequence[int], tokens: Sequence[int]) -> Sequence[Logits]:
        """One more token of these rows at the draft's rounds, behind what is kept and drafted."""

    def verify(self, live: Sequence[int], tokens: Sequence[Sequence[int]]) -> Sequence[Logits]:
        """Tokens of these rows at all rounds behind what is kept: logits (tokens, vocab) of each.

        Drafts are forgotten. `keep` follows.
        """

    def keep(self, live: Sequence[int], counts: Sequence[int]) -> None:
        """Of the tokens that were just verified the first so many of each row stay."""

    def whole(self, ids: Sequence[int]) -> Logits:
        """The logits (vocab,) after a window that has moved on, run from its start."""


def checked_drafting(
    graph: BlockGraph,
    draft_rounds: Rounds,
    rounds: Rounds,
    written: Mapping[str, int] | None = None,
) -> Drafting:
    """Drafts at ``draft_rounds`` for passes at ``rounds``, where drafts can be lossless.

    Repeats that are left out run as often as they do in the passes. Raises `GraphError` for rounds
    that are none, and `UsageError` for those above the passes' or equal to them, and for models
    without a repeat, that start a repeat from noise, or whose rounds share cache slots.
    """
    name = setting("draft_rounds")
    full = resolve_rounds(graph, rounds, written)
    if not full:
        message = f"{name} needs a repeat, and this model has none"
        raise UsageError("bad-draft", message, hint="leave it out")
    if any(loop.options.start == "noise" for loop in graph.loops()):
        message = f"{name} cannot draft for a repeat that starts from noise (init=noise)"
        raise UsageError("bad-draft", message, hint="leave it out: no two passes are alike")
    if graph.shares_slots:
        message = f"{name} needs a cache slot for each round, and here rounds share theirs (kv=)"
        raise UsageError("bad-draft", message, hint="leave it out, or train without kv=")
    few = resolve_rounds(graph, draft_rounds, full)
    above = [repeat for repeat, count in few.items() if count > full[repeat]]
    if above:
        repeat = above[0]
        message = f"{name} {few[repeat]} is above the rounds of {repeat}, {full[repeat]}"
        raise UsageError("bad-draft", message, hint="draft with fewer rounds than you ask for")
    if dict(few) == dict(full):
        message = f"{name} equals the rounds that verify: nothing would be faster"
        raise UsageError("bad-draft", message, hint="draft with fewer rounds than you ask for")
    visits = [sum(graph.visit_counts(counts).values()) + 1 for counts in (few, full)]  # 1: the head
    return Drafting(few, visits[0] / visits[1])


@dataclass
class Pace:
    """How many tokens to draft next: what pays at the acceptance rate of late, or none.

    Where none pays, one is tried again after a pause, which doubles while it is refused.
    """

    cost: float
    most: int
    _hits: float = 1.6  # as if 1.6 of 2 had been accepted
    _tries: float = 2.0
    _pause: int = 16
    _passed: int = 0

    def tokens(self) -> int:
        rate = min(self._hits / self._tries, 0.99)
        best, gain = 0, CLEAR_GAIN
        for count in range(1, self.most + 1):
            made = (1 - rate ** (count + 1)) / (1 - rate)
            promised = made / (1 + count * (self.cost + TOKEN_COST))
            if promised > gain:
                best, gain = count, promised
        if best == 0:
            self._passed += 1
            return int(self._passed > self._pause)
        return best

    def learn(self, drafted: int, accepted: int) -> None:
        if drafted == 0:
            return
        seen = min(accepted + 1, drafted)
        fade = 0.92**seen
        self._hits = self._hits * fade + accepted
        self._tries = self._tries * fade + seen
        if self._passed > self._pause:
            self._pause = 4 if accepted else min(2 * max(self._pause, 16), 256)
            self._passed = 0


@dataclass
class _Row:
    ids: list[int]  # the last of them has not been run
    left: int  # tokens to choose
    rng: np.random.Generator
    pace: Pace
    ready: deque[int] = field(default_factory=deque)
    ended: bool = False

    def take(self, tokens: Sequence[int], stops: frozenset[int]) -> int:
        """Add what was chosen, up to a stop; how many were added."""
        for added, token in enumerate(tokens):
            if token in stops:
                self.ended = True
                return added
            self.ids.append(token)
            self.ready.append(token)
            self.left -= 1
            if self.left == 0:
                self.ended = True
                return added + 1
        return len(tokens)


def stream_chosen(
    plain: RowLogits,
    drafted: Callable[[Drafting], DraftedRows],
    request: Request,
    sampling: Sampling,
    *,
    context: int,
    drafting: Drafting | None,
    vocabulary: int | None = None,
    drafts: Drafts | None = None,
) -> Iterator[tuple[int | None, ...]]:
    """The ids chosen for every row, with drafts where they are asked for and there is one row.

    Several rows are decoded plainly: one pass serves them all. Only the first ``vocabulary`` logits
    count, since a model's vocabulary may be padded. ``drafts`` is told what came of the drafts.
    """
    if drafting is not None and len(request.rows) == 1:
        rows, limits = drafted(drafting), (drafting, context)
        return stream_drafted(
            rows, request, sampling, *limits, vocabulary=vocabulary, drafts=drafts
        )

    def known(rows: Sequence[Sequence[int]], live: Sequence[int]) -> Sequence[Logits]:
        return [logits[:vocabulary] for logits in plain(rows, live)]

    return stream_tokens(known, request, sampling)


def stream_drafted(
    model: DraftedRows,
    request: Request,
    sampling: Sampling,
    drafting: Drafting,
    context: int,
    *,
    vocabulary: int | None = None,
    drafts: Drafts | None = None,
) -> Iterator[tuple[int | None, ...]]:
    """What `rinsc.generation.stream_tokens` gives, faster: None for a row that has ended.

    At temperature 0 the ids are the same; above it they are others, of the same distribution. Row i
    draws what its prompt alone draws with the seed ``sampling.seed + i``. Only the first
    ``vocabulary`` logits count. ``drafts`` is told what came of the drafts.
    """
    told = Drafts() if drafts is None else drafts
    if request.new_tokens == 0:
        return
    run = _Run(model, sampling, drafting, context, vocabulary, request.stop_ids, told)
    rows = run.begun(request)
    while True:
        hungry = any(not row.ready and not row.ended for row in rows)
        if hungry:
            run.cycle(rows)
            continue
        if not any(row.ready for row in rows):
            return
        yield tuple(row.ready.popleft() if row.ready else None for row in rows)


@dataclass(frozen=True)
class _Run:
    model: DraftedRows
    sampling: Sampling
    drafting: Drafting
    context: int
    vocabulary: int | None
    stops: frozenset[int]
    drafts: Drafts

    def begun(self, request: Request) -> list[_Row]:
        import numpy as np

        rows = []
        logits = self.model.begin(request.rows)
        for index, (ids, last) in enumerate(zip(request.rows, logits, strict=True)):
            rng = np.random.default_rng(self.sampling.seed + index)
            pace = Pace(self.drafting.cost, self.drafting.most_tokens)
            row = _Row(list(ids), request.new_tokens, rng, pace)
            row.take([sample_next(last[: self.vocabulary], self.sampling, rng)], self.stops)
            rows.append(row)
        return rows

    def cycle(self, rows: Sequence[_Row]) -> None:
        """Choose at least one token for every row that has not ended."""
        live = []
        for index, row in enumerate(rows):
            if row.ended:
                continue
            if len(row.ids) > self.context:  # the window moves
                last = self.model.whole(row.ids[-self.context :])[: self.vocabulary]
                row.take([sample_next(last, self.sampling, row.rng)], self.stops)
            else:
                live.append(index)
        if not live:
            return
        proposals = self._drafted(rows, live)
        tokens = [[rows[index].ids[-1], *drafted] for index, (drafted, _) in proposals.items()]
        results = self.model.verify(live, tokens)
        counts = []
        for (index, (drafted, shares)), logits in zip(proposals.items(), results, strict=True):
            row = rows[index]
            chosen = self._chosen(logits, drafted, shares, row.rng)
            self.drafts.add(len(drafted), len(chosen) - 1)
            row.pace.learn(len(drafted), len(chosen) - 1)
            row.take(chosen, self.stops)
            counts.append(len(chosen))
        self.model.keep(live, counts)

    def _drafted(
        self, rows: Sequence[_Row], live: Sequence[int]
    ) -> dict[int, tuple[list[int], list[Shares]]]:
        """The drafts of each row, and above temperature 0 what each was drawn from."""
        proposals: dict[int, tuple[list[int], list[Shares]]] = {index: ([], []) for index in live}
        wanted = {}
        for index in live:
            row = rows[index]
            # One token more than the drafts is chosen, and all stand behind what is kept.
            room = min(row.left - 1, self.context - len(row.ids))
            wanted[index] = min(row.pace.tokens(), room) if room > 0 else 0
        going = [index for index in live if wanted[index] > 0]
        while going:
            lasts = [(proposals[index][0] or rows[index].ids)[-1] for index in going]
            on = []
            for index, logits in zip(going, self.model.draft(going, lasts), strict=True):
                drafted, shares = proposals[index]
                scores = logits[: self.vocabulary]
                best = int(scores.argmax())
                if not math.isfinite(scores[best]):
                    continue  # at few rounds only: no draft
                if self.sampling.temperature == 0:
                    drafted.append(best)
                else:
                    shares.append(token_shares(scores, self.sampling))
                    drafted.append(drawn(shares[-1], rows[index].rng))
                if len(drafted) < wanted[index] and drafted[-1] not in self.stops:
                    on.append(index)
            going = on
        return proposals

    def _chosen(
        self,
        logits: Logits,
        drafted: Sequence[int],
        shares: Sequence[Shares],
        rng: np.random.Generator,
    ) -> list[int]:
        """The accepted drafts, and the token after them."""
        import numpy as np

        chosen: list[int] = []
        for place, token in enumerate(drafted):
            scores = logits[place][: self.vocabulary]
            likeliest = sample_next(scores, Sampling(), rng)
            if self.sampling.temperature == 0:
                chosen.append(likeliest)
                if likeliest != token:
                    return chosen
                continue
            wanted, offered = token_shares(scores, self.sampling), shares[place]
            if rng.random() * offered[token] >= wanted[token]:
                more = np.maximum(wanted - offered, 0)
                # Equal up to rounding: nothing is left, and either share will do.
                chosen.append(drawn(more if more.sum() > 0 else wanted, rng))
                return chosen
            chosen.append(token)
        last = logits[len(drafted)][: self.vocabulary]
        chosen.append(sample_next(last, self.sampling, rng))
        return chosen


def token_shares(scores: Logits, sampling: Sampling) -> Shares:
    """The probability (vocab,) with which `sample_next` draws each token, above temperature 0."""
    import numpy as np

    candidates, weights = kept_candidates(np.asarray(scores, np.float64), sampling)
    shares = np.zeros(len(scores))
    shares[candidates] = weights / weights.sum()
    return shares


def drawn(shares: Shares, rng: np.random.Generator) -> int:
    """A token drawn by its share (vocab,); they need not add up to 1."""
    import numpy as np

    reached = np.cumsum(shares)
    place = int(np.searchsorted(reached, rng.random() * reached[-1], side="right"))
    return min(place, int(np.flatnonzero(shares)[-1]))
