"""Text from a PyTorch model: each token behind a cache of those before it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TypeAlias, overload

import numpy as np
import numpy.typing as npt
import torch

from rinsc.backends.torch import CompiledModule
from rinsc.backends.torch.continuation import CachedModule, cached_module
from rinsc.errors import LoweringError
from rinsc.generation import (
    Prompt,
    RowLogits,
    cached_rows,
    checked_request,
    continue_tokens,
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
    cache: bool = True,
) -> list[int] | list[list[int]]:
    """The ``new_tokens`` ids after ``prompt``, or fewer, up to one of ``stop_ids``.

    Of a sequence of prompts, of any lengths, there is one list each: prompt i alone would be
    followed by the same ids with the seed ``sampling.seed + i``. A sequence that outgrows the
    context goes on as its last ``context`` ids, which is slow: each token runs all of them anew.
    Without ``cache``, and for layer kinds that have none, each token runs the whole sequence: the
    same tokens, but for repeats whose rounds share their slots.

    Raises `UsageError` for a prompt that is empty or longer than the context, token ids that are
    none and a negative count, and `GraphError` for rounds that no model of this signature runs.
    Warns with `RoundsWarning` at more rounds than the signature trains.
    """
    request = checked_request(prompt, new_tokens, model.spec, stop_ids)
    message = beyond_training(resolve_rounds(model.graph, rounds), trained_rounds(model.graph))
    if message is not None:
        warnings.warn(message, RoundsWarning, stacklevel=2)
    made = continue_tokens(row_logits(model, rounds, cache=cache), request, sampling)
    return made[0] if request.is_single else made


def row_logits(model: CompiledModule, rounds: Rounds, *, cache: bool = True) -> RowLogits:
    """The logits of ``model`` in evaluation mode after sequences, at these rounds.

    With ``cache`` behind one, where the layer kinds have it.
    """
    device = next(model.parameters()).device
    cached = _cached(model) if cache else None

    @torch.inference_mode()
    def step(ids: Ids, past: Past | None, mask: Ids | None) -> tuple[Logits, Past]:
        assert cached is not None
        seen = None if mask is None else torch.from_numpy(mask).to(device)
        logits, present = cached(torch.from_numpy(ids).to(device), past, seen, rounds=rounds)
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
