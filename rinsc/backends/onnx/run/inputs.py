"""What a session is given, and the inputs that set its rounds, checked first."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rinsc.backends.onnx.contract import dial_name
from rinsc.errors import LoweringError, RinscError, UsageError
from rinsc.graph import BlockGraph, Rounds, plain_rounds, resolve_rounds
from rinsc.layers import ModelInput
from rinsc.scalars import whole
from rinsc.spec import ModelSpec


def checked_input(
    values: npt.ArrayLike, port: ModelInput, spec: ModelSpec, *, before: int = 0
) -> npt.NDArray[Any]:
    """Token ids as int64 (batch, seq), or numbers as float32 (batch, seq, …), or of pictures.

    Raises `RinscError` for another shape, other numbers, token ids out of range, and for more of
    them than the context has room for behind ``before``.
    """
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty(0)
    fits = array.ndim == len(port.shape) and all(
        size == own
        for size, own in zip(array.shape, port.shape, strict=True)
        if isinstance(own, int)
    )
    if not fits or array.size == 0 or array.dtype.kind not in _KINDS[port.dtype]:
        shape = f"({', '.join(map(str, port.shape))})"
        numbers = "patches" if port.has_positions else "pixels"
        rules = {
            "int64": "token ids must be whole numbers",
            "float32": f"{numbers} must be numbers",
        }
        message = f"{rules[port.dtype]}, {shape}, not {array.dtype} {array.shape}"
        raise RinscError("bad-input", message, hint="give rows of equal length")
    if port.dtype == "int64" and (array.min() < 0 or array.max() >= spec.vocab_size):
        message = f"token ids go from {array.min()} to {array.max()}"
        hint = f"they must be from 0 to {spec.vocab_size - 1}"
        raise RinscError("bad-input", message, hint=hint)
    total = before + array.shape[1]
    if port.has_positions and total > spec.context:
        message = f"{total} positions exceed the context of {spec.context}"
        raise RinscError("context-exceeded", message, hint="give the last of them only")
    return array.astype(port.dtype)


_KINDS = {"int64": "iu", "float32": "iuf"}


def checked_mask(
    values: npt.ArrayLike | None, total: int, past: npt.NDArray[np.int64], *, is_fixed: bool
) -> npt.NDArray[np.int64]:
    """Which of all tokens count, (batch, total), behind those of ``past`` (batch, past).

    Where nothing is given what counted so far does, and so does what is new. Raises `RinscError`
    for something else, and where the past ``is_fixed`` for another past.
    """
    batch, length = past.shape
    if values is None:
        return np.concatenate([past, np.ones((batch, total - length), np.int64)], axis=1)
    try:
        array = np.asarray(values)
    except ValueError:
        array = np.empty(0)
    if array.shape != (batch, total) or not np.isin(array, (0, 1)).all():
        shape = (batch, total)
        message = f"attention_mask must be zeros and ones, {shape}, not {array.dtype} {array.shape}"
        raise RinscError("bad-input", message, hint="give 1 for each token that counts")
    if is_fixed and not np.array_equal(array[:, :length], past):
        message = "attention_mask says something else of past tokens than it did before"
        hint = "what a token saw cannot be changed afterwards; start the sequences again"
        raise RinscError("bad-input", message, hint=hint)
    return array.astype(np.int64)


def checked_threads(threads: int) -> int:
    """A number of threads; raises `UsageError` for none."""
    count = whole(threads)
    if count is None or count < 1:
        message = f"threads must be a whole number of at least 1, not {threads!r:.40}"
        raise UsageError("usage", message, hint="leave it out for every core")
    return count


@dataclass
class Dials:
    """Which input sets each repeat's rounds; ``written`` are those that the model was written with.

    Of a ``gated`` model they are the most that it runs.
    """

    graph: BlockGraph
    inputs: Mapping[str, str]
    written: Mapping[str, int]
    gated: bool
    place: str
    _last: tuple[Rounds, dict[str, npt.NDArray[np.int64]]] | None = field(default=None, init=False)

    def arrays(self, rounds: Rounds) -> dict[str, npt.NDArray[np.int64]]:
        """The inputs for these rounds; the last ones are kept, since each token asks again."""
        counts = plain_rounds(rounds)
        last = self._last
        if last is not None and _same(last[0], counts):
            return last[1]
        settings = self.settings(counts).items()
        arrays = {self.inputs[name]: np.array(count, np.int64) for name, count in settings}
        self._last = (counts, arrays)
        return arrays

    def settings(self, rounds: Rounds) -> dict[str, int]:
        """Rounds of each repeat that has an input; the others have to be as exported.

        Raises `LoweringError` for rounds that the model was not exported for.
        """
        if rounds is None:
            return {name: self.written[name] for name in self.inputs}
        counts = resolve_rounds(self.graph, rounds)
        fixed = {name: count for name, count in counts.items() if name not in self.inputs}
        if fixed and any(self.written.get(name) != count for name, count in fixed.items()):
            hint = "export it with rounds='dynamic', or leave the rounds out"
            raise self._refused("was compiled for", counts, hint)
        if self.gated and any(counts[name] > self.written[name] for name in self.inputs):
            raise self._refused("runs at most", counts, "export it with more rounds")
        return {name: counts[name] for name in self.inputs}

    def _refused(self, can: str, counts: Mapping[str, int], hint: str) -> LoweringError:
        written, refused = _in_words(self.written), _in_words(counts)
        message = f"the model {can} {written} round{'s' * (written != '1')}, not {refused}"
        return LoweringError("fixed-rounds", message, place=self.place, hint=hint)


def _in_words(counts: Mapping[str, int]) -> str:
    """``3``, or ``A=3, B=2`` where there are several repeats."""
    if len(counts) == 1:
        return str(*counts.values())
    return ", ".join(f"{name}={count}" for name, count in counts.items())


def dial_inputs(graph: BlockGraph, names: Collection[str]) -> dict[str, str]:
    """The input among ``names`` that sets the rounds of each repeat, where there is one."""
    spellings = {
        loop.name: [dial_name(graph, loop.name, gated=gated) for gated in (False, True)]
        for loop in graph.dials()
    }
    return {
        name: input_name
        for name, inputs in spellings.items()
        for input_name in inputs
        if input_name in names
    }


def _same(left: Rounds, right: Rounds) -> bool:
    """Equal, and not only as numbers: ``True`` equals 1 and is no number of rounds."""
    return repr(left) == repr(right)
