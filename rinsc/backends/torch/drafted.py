"""One sequence in PyTorch that drafts at few rounds and verifies at all of them.

The draft has a cache of its own, of the slots that it visits. After a verification both caches are
cut to what was kept. What the draft has not seen of it runs before its next token, in one pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from rinsc.backends.torch.decoding import CachedModule, cached_module, row_logits
from rinsc.backends.torch.module import CompiledModule
from rinsc.drafting import Drafting, Drafts, checked_drafting, stream_drafted
from rinsc.errors import LoweringError, setting
from rinsc.generation import Request, stream_tokens
from rinsc.graph import Rounds
from rinsc.sampling import Sampling

Logits = npt.NDArray[np.floating]


@dataclass
class CachedRow:
    """Tokens behind a cache that can be cut, always at the same rounds."""

    module: CachedModule
    rounds: Rounds
    device: torch.device
    length: int = 0
    _past: list[torch.Tensor] | None = None

    @torch.inference_mode()
    def run(self, tokens: Sequence[int]) -> Logits:
        """The logits (tokens, vocab) after each of these."""
        ids = torch.tensor([list(tokens)], device=self.device)
        logits, self._past = self.module(ids, self._past, None, rounds=self.rounds)
        self.length += len(tokens)
        rows: Logits = logits[0].float().numpy(force=True)
        return rows

    def cut(self, length: int) -> None:
        """Keep the first so many tokens."""
        if length < self.length:
            assert self._past is not None
            self._past = [values[:, :, :length] for values in self._past]
            self.length = length


@dataclass
class DraftedRow:
    """The `DraftedRows` of one prompt. ``full`` has what is kept, ``few`` drafts as well."""

    full: CachedRow
    few: CachedRow
    _kept: list[int] = field(default_factory=list)
    _unseen: list[int] = field(default_factory=list)  # kept, and not yet run by the draft
    _verified: list[int] = field(default_factory=list)

    def begin(self, rows: Sequence[Sequence[int]]) -> Sequence[Logits]:
        (row,) = rows
        self._kept, self._unseen = list(row), list(row)
        return [self.full.run(row)[-1]]

    def draft(self, live: Sequence[int], tokens: Sequence[int]) -> Sequence[Logits]:
        new, self._unseen = [*self._unseen, *tokens], []
        return [self.few.run(new)[-1]]

    def verify(self, live: Sequence[int], tokens: Sequence[Sequence[int]]) -> Sequence[Logits]:
        (new,) = tokens
        self._verified = list(new)
        return [self.full.run(new)]

    def keep(self, live: Sequence[int], counts: Sequence[int]) -> None:
        self._kept += self._verified[: counts[0]]
        self.full.cut(len(self._kept))
        self.few.cut(len(self._kept))
        self._unseen = self._kept[self.few.length :]

    def whole(self, ids: Sequence[int]) -> Logits:
        for row in (self.full, self.few):
            row.cut(0)
        self._kept, self._unseen = [], []
        last: Logits = CachedRow(self.full.module, self.full.rounds, self.full.device).run(ids)[-1]
        return last


def check_drafting(
    model: CompiledModule, draft_rounds: Rounds, rounds: Rounds, *, cache: bool = True
) -> Drafting:
    """How to draft, checked; raises `LoweringError` where this module cannot without loss."""
    drafting = checked_drafting(model.graph, draft_rounds, rounds)
    name = setting("draft_rounds")
    if not cache:
        message = f"{name} needs the cache"
        raise LoweringError("bad-draft", message, hint="generate with the cache")
    cached_module(model)  # raises where its kinds have none
    types = {parameter.dtype for parameter in model.parameters()}
    if not types <= {torch.float32, torch.float64}:
        reason = "in half precision tokens run together are rounded otherwise than alone"
        raise LoweringError("bad-draft", f"{name}: {reason}", hint="bring the module to float32")
    return drafting


def drafted_steps(
    model: CompiledModule,
    request: Request,
    sampling: Sampling,
    rounds: Rounds,
    draft_rounds: Rounds,
    *,
    vocabulary: int | None = None,
    drafts: Drafts | None = None,
) -> Iterator[tuple[int | None, ...]]:
    """The ids chosen for every row, step by step, of the first ``vocabulary`` ids.

    ``drafts`` is told what came of drafts. Several rows are decoded plainly: one pass serves them
    all. Raises `LoweringError` for a module that cannot draft, and what `checked_drafting` raises.
    """
    drafting = check_drafting(model, draft_rounds, rounds)
    if len(request.rows) > 1:
        run = row_logits(model, rounds)

        def known(rows: Sequence[Sequence[int]], live: Sequence[int]) -> list[Any]:
            return [logits[:vocabulary] for logits in run(rows, live)]

        return stream_tokens(known, request, sampling)
    cached = cached_module(model).eval()
    device = next(model.parameters()).device
    row = DraftedRow(CachedRow(cached, rounds, device), CachedRow(cached, drafting.rounds, device))
    limits = (drafting, model.spec.context)
    return stream_drafted(row, request, sampling, *limits, vocabulary=vocabulary, drafts=drafts)
