"""What a session brings to generation: logits after sequences, behind its cache or without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rinsc.backends.onnx.decoding import Decoding
from rinsc.generation import RowLogits, cached_rows, whole_rows
from rinsc.graph import Rounds

if TYPE_CHECKING:
    from rinsc.backends.onnx.session import Session


def row_logits(session: Session, rounds: Rounds) -> RowLogits:
    """The logits of ``session`` after sequences, at these rounds.

    Without a cache in the model every token runs its whole row.
    """

    def step(
        ids: npt.NDArray[np.int64], past: Decoding | None, mask: npt.NDArray[np.int64] | None
    ) -> tuple[npt.NDArray[np.float32], Decoding]:
        if past is not None:
            return past(ids[:, 0]), past
        logits, present = session.step(ids, attention_mask=mask, rounds=rounds)
        return logits[:, -1], session.decoding(present)

    def whole(ids: Sequence[int]) -> npt.NDArray[np.float32]:
        last: npt.NDArray[np.float32] = session.logits([list(ids)], rounds)[0, -1]
        return last

    if session.has_cache:
        return cached_rows(step, session.graph)
    return whole_rows(whole, session.spec.context)
