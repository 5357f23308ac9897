"""Tokens that a module chooses: plainly, or drafted at few rounds and verified at all of them.

A draft has a cache of its own, of the slots that it visits. After a verification both caches are
cut to what was kept. What the draft has not seen of it runs before its next token, in one pass.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch

from rinsc.backends.torch.decoding import CachedModule, cached_module
from rinsc.backends.torch.module import CompiledModule
from rinsc.drafting import Drafting, Drafts, checked_drafting, stream_chosen
from rinsc.errors import LoweringError, setting
from rinsc.generation import (
    Prompt,
    Request,
    RowLogits,
    cached_rows,
    checked_request,
    collected,
    whole_rows,
)
from rinsc.graph import Rounds, RoundsWarning, beyond_training, resolve_rounds, trained_rounds
from rinsc.sampling import Sampling

Past: TypeAlias = list[torch.Tensor]
Ids: TypeAlias = npt.NDArray[np.int64]
Logits: TypeAlias = npt.NDArray[np.floating]


@overload
def generate_ids(
    model: CompiledModule,
    prompt: Prompt,
    new_tokens: int,
    *,
    sampling: Sampling,
    stop_ids: Sequence[int] = (),
    rounds: Rounds = None,
    draft_rounds: Rounds = None,
    cache: bool = True,
) -> list[int]: ...


@overload
def generate_ids(
    model: CompiledModule,
    prompt: Sequence[Prompt],
    new_tokens: int,
    *,
    sampling: Sampling,
    stop_ids: Sequence[int] = (),
    rounds: Rounds = None,
    draft_rounds: Rounds = None,
    cache: bool = True,
) -> list[list[int]]: ...


def generate_ids(
    model: CompiledModule,
    prompt: Prompt | Sequence[Prompt],
    new_tokens: int,
    *,
    sampling: Sampling,
    stop_ids: Sequence[int] = (),
    rounds: Rounds = None,
    draft_rounds: Rounds = None,
    cache: bool = True,
) -> list[int] | list[list[int]]:
    """The ``new_tokens`` ids after ``prompt``, or fewer, up to one of ``stop_ids``.

    Of a sequence of prompts, of any lengths, there is one list each: prompt i alone would be
    followed by the same ids with the seed ``sampling.seed + i``. A sequence that outgrows the
    context goes on as its last ``context`` ids, which is slow: each token runs all of them anew.
    Without ``cache``, and for layer kinds that have none, each token runs the whole sequence: the
    same tokens, but for repeats whose rounds share their slots. With ``draft_rounds`` one prompt is
    drafted at so many rounds and verified at ``rounds``, without loss: above temperature 0 it
    draws other ids of the same distribution.

    Raises `UsageError` for a prompt that is empty or longer than the context, token ids that are
    none and a negative count, `GraphError` for rounds that no model of this signature runs, and
    what `check_drafting` raises. Warns with `RoundsWarning` at more rounds than the signature
    trains.
    """
    request = checked_request(prompt, new_tokens, model.spec, stop_ids)
    message = beyond_training(resolve_rounds(model.graph, rounds), trained_rounds(model.graph))
    if message is not None:
        warnings.warn(message, RoundsWarning, stacklevel=2)
    steps = token_steps(model, request, sampling, rounds, draft_rounds, cache=cache)
    rows = collected(steps, len(request.rows))
    return rows[0] if request.is_single else rows


def token_steps(
    model: CompiledModule,
    request: Request,
    sampling: Sampling,
    rounds: Rounds = None,
    draft_rounds: Rounds = None,
    *,
    cache: bool = True,
    vocabulary: int | None = None,
    drafts: Drafts | None = None,
) -> Iterator[tuple[int | None, ...]]:
    """The ids chosen for every row, step by step, of the first ``vocabulary`` ids.

    See `stream_chosen`. Raises what `check_drafting` raises.
    """
    drafting = None
    if draft_rounds is not None:
        drafting = check_drafting(model, draft_rounds, rounds, cache=cache)
    return stream_chosen(
        row_logits(model, rounds, cache=cache),
        partial(_drafted_row, model, rounds),
        *(request, sampling),
        context=model.spec.context,
        drafting=drafting,
        vocabulary=vocabulary,
        drafts=drafts,
    )


def check_drafting(
    model: CompiledModule, draft_rounds: Rounds, rounds: Rounds, *, cache: bool = True
) -> Drafting:
    """How to draft, checked; raises `LoweringError` where this module cannot without loss, and what
    `checked_drafting` raises."""
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


def row_logits(model: CompiledModule, rounds: Rounds, *, cache: bool = True) -> RowLogits:
    """The logits of ``model`` in evaluation mode after sequences, at these rounds.

    With ``cache`` behind one, where the layer kinds have it.
    """
    device = next(model.parameters()).device
    cached = _cached(model) if cache else None

    @torch.inference_mode()
    def step(ids: Ids, past: Past | None, mask: Ids | None) -> tuple[Logits, Past]:
        assert cached is not None
        attended = None if mask is None else torch.from_numpy(mask).to(device)
        logits, present = cached(torch.from_numpy(ids).to(device), past, attended, rounds=rounds)
        return logits[:, -1].float().numpy(force=True), present

    @torch.inference_mode()
    def whole(ids: Sequence[int]) -> Logits:
        was_training = model.training
        model.eval()
        try:
            logits = model(torch.tensor([list(ids)], device=device), rounds=rounds)
        finally:
            model.train(was_training)
        row: Logits = logits[0, -1].float().numpy(force=True)
        return row

    if cached is None:
        return whole_rows(whole, model.spec.context)
    return cached_rows(step, model.graph)


def _cached(model: CompiledModule) -> CachedModule | None:
    """The module behind a cache; None where its kind looks back in a way that no cache holds."""
    try:
        return cached_module(model).eval()
    except LoweringError:
        return None


def _drafted_row(model: CompiledModule, rounds: Rounds, drafting: Drafting) -> DraftedRow:
    cached, device = cached_module(model).eval(), next(model.parameters()).device
    return DraftedRow(
        CutSequence(cached, rounds, device), CutSequence(cached, drafting.rounds, device)
    )


@dataclass
class CutSequence:
    """Tokens behind a cache from which the last ones can be taken back, always at these rounds."""

    module: CachedModule
    rounds: Rounds
    device: torch.device
    length: int = 0
    _past: Past | None = None

    @torch.inference_mode()
    def run(self, tokens: Sequence[int]) -> Logits:
        """The logits (tokens, vocab) after each of these."""
        ids = torch.tensor([list(tokens)], device=self.device)
        logits, self._past = self.module(ids, self._past, None, rounds=self.rounds)
        self.length += len(tokens)
        rows: Logits = logits[0].float().numpy(force=True)
        return rows

    def cut(self, length: int) -> None:
        """Keep at most the first so many tokens."""
        if self._past is not None and length < self.length:
            self._past = [values[:, :, :length] for values in self._past] if length else None
            self.length = length


@dataclass
class DraftedRow:
    """The `DraftedRows` of one prompt: ``full`` has what was kept, ``few`` drafts behind it."""

    full: CutSequence
    few: CutSequence
    _kept: list[int] = field(default_factory=list)
    _verified: list[int] = field(default_factory=list)

    def begin(self, rows: Sequence[Sequence[int]]) -> Sequence[Logits]:
        (row,) = rows
        self._kept = list(row)
        return [self.full.run(row)[-1]]

    def draft(self, live: Sequence[int], tokens: Sequence[int]) -> Sequence[Logits]:
        return [self.few.run([*self._kept[self.few.length :], *tokens])[-1]]

    def verify(self, live: Sequence[int], tokens: Sequence[Sequence[int]]) -> Sequence[Logits]:
        (self._verified,) = map(list, tokens)
        return [self.full.run(self._verified)]

    def keep(self, live: Sequence[int], counts: Sequence[int]) -> None:
        self._kept += self._verified[: counts[0]]
        self.full.cut(len(self._kept))
        self.few.cut(len(self._kept))

    def whole(self, ids: Sequence[int]) -> Logits:
        self.full.cut(0)
        self.few.cut(0)  # no draft follows a window that has moved
        last: Logits = self.full.run(ids)[-1]
        return last
