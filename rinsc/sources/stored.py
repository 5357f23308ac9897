"""One stored tensor, and the tensors of ours that it holds.

    query (8, 6), key (4, 6), value (4, 6)      qkv_proj (16, 6)

``Stored`` says which, and `pieces` and `stacked` go there and back, bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar


class Array(Protocol):
    """What a tensor needs to have here: numpy, torch and lazily mapped ones do."""

    @property
    def shape(self) -> Any: ...


Tensor = TypeVar("Tensor", bound=Array)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """Our tensors in one of theirs: their rows one behind the other, or in turns of a head each
    where there are several ``heads``. One that is ``turned`` has columns for rows."""

    names: tuple[str, ...]
    shapes: tuple[Shape, ...]
    heads: int = 1
    turned: bool = False

    @property
    def shape(self) -> Shape:
        """That of the stored tensor."""
        rows = sum(shape[0] for shape in self.shapes)
        whole = (rows, *self.shapes[0][1:])
        return whole[::-1] if self.turned else whole


def pieces(stored: Stored, tensor: Tensor) -> dict[str, Tensor]:
    """Our tensors; those that are a part of it are copied."""
    rows: Any = tensor
    if hasattr(rows, "read"):  # one that is still in its file
        tensor = rows = rows.read()
    if len(stored.names) == 1 and not stored.turned:
        return {stored.names[0]: tensor}
    rows = rows.T if stored.turned and rows.ndim == 2 else rows
    rows = rows.reshape(stored.heads, -1, *rows.shape[1:])
    ours: dict[str, Tensor] = {}
    start = 0
    for name, shape in zip(stored.names, stored.shapes, strict=True):
        end = start + shape[0] // stored.heads
        ours[name] = _copied(rows[:, start:end].reshape(shape))
        start = end
    return ours


def stacked(stored: Stored, tensors: Sequence[Tensor]) -> Tensor:
    """The stored tensor of ours."""
    if len(tensors) == 1 and not stored.turned:
        return tensors[0]
    own: list[Any] = list(tensors)
    turns = [tensor.reshape(stored.heads, -1, *tensor.shape[1:]) for tensor in own]
    rows = sum(turn.shape[1] for turn in turns)
    whole = _empty_like(own[0], (stored.heads, rows, *own[0].shape[1:]))
    start = 0
    for turn in turns:
        whole[:, start : start + turn.shape[1]] = turn
        start += turn.shape[1]
    whole = whole.reshape(-1, *own[0].shape[1:])
    result: Tensor = _copied(whole.T) if stored.turned and whole.ndim == 2 else whole
    return result


def _copied(tensor: Any) -> Any:
    """A tensor with memory of its own, in order."""
    if hasattr(tensor, "clone"):
        return tensor.contiguous().clone()
    return tensor.copy(order="C")


def _empty_like(tensor: Any, shape: Shape) -> Any:
    """One of the same library and numbers, of another shape."""
    if hasattr(tensor, "new_empty"):
        return tensor.new_empty(shape)
    return tensor.__array_namespace__().empty(shape, dtype=tensor.dtype)
