"""What an operation is: a shape rule, parameters and FLOPs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, TypeAlias, get_args

from rinsc.errors import GraphError, did_you_mean

Dim: TypeAlias = int | str  # a name stands for a size known at run time: "batch", "seq"
Shape: TypeAlias = tuple[Dim, ...]
Sizes: TypeAlias = tuple[int, ...]
Causal: TypeAlias = Literal["full", "half"]
Plain: TypeAlias = Literal["normal", "residual", "ones", "zeros", "identity", "sum"]
Init: TypeAlias = Literal[Plain, "xavier", "lecun", "rows", "specks", "constant"]


@dataclass(frozen=True)
class Param:
    """A trained tensor.

    ``residual`` is ``normal``, scaled down by the executed depth; of a matrix (w, 2·w),
    ``identity`` is [I 0] and ``sum`` is [I I]. ``xavier`` is uniform by inputs and outputs,
    ``lecun`` normal by inputs; ``rows`` are normal with length 1, ``specks`` with deviation 1e-6.
    A ``constant`` is what its operation says.
    """

    name: str
    shape: Sizes
    init: Init

    def __post_init__(self) -> None:
        require_one_of(self.init, get_args(Init), "a weight's start")

    @property
    def count(self) -> int:
        return math.prod(self.shape)


# Which positions a result at one position depends on: its own, those before too, or any.
Reach: TypeAlias = Literal["own", "earlier", "any"]
# What a pass over new tokens needs of those before: nothing, their keys and values, or more than
# any cache keeps.
Needs: TypeAlias = Literal["nothing", "keys", "everything"]
# Which inputs may be cut over devices, so that the parts give the parts of the result: any, all
# alike, the first alone, or none.
Parts: TypeAlias = Literal["any", "alike", "first", "never"]
# What PyTorch keeps for the backward pass: inputs or output, those of a product or a norm in their
# own precision, a view of the input, ids of rows, the result as a table or in fp32, or nothing.
Kept: TypeAlias = Literal[
    "nothing", "inputs", "output", "product", "norm", "view", "ids", "table", "full"
]


@dataclass(frozen=True)
class Op:
    """One primitive operation. Shapes are those of its inputs, in order.

    Each class states the traits `reach`, `needs`, `parts` and `kept`, in its first line or as
    properties: they decide whether a kind is causal and has a cache, what tensor parallelism cuts,
    and the memory of training. A class that leaves one out is a `TypeError` where it is written.
    """

    reach: ClassVar[Reach]
    needs: ClassVar[Needs]
    parts: ClassVar[Parts]
    kept: ClassVar[Kept]
    owns_table: ClassVar[bool] = False  # a table that is not trained; the operation needs a name

    def __init_subclass__(
        cls,
        *,
        reach: Reach | None = None,
        needs: Needs | None = None,
        parts: Parts | None = None,
        kept: Kept | None = None,
    ) -> None:
        super().__init_subclass__()
        traits = {"reach": reach, "needs": needs, "parts": parts, "kept": kept}
        for trait, value in traits.items():
            if value is not None:
                require_one_of(value, get_args(globals()[trait.title()]), f"a '{trait}'")
                setattr(cls, trait, value)
        missing = [trait for trait in traits if not hasattr(cls, trait)]
        if missing:
            raise TypeError(f"the operation {cls.__name__} must state: {', '.join(missing)}")

    @property
    def saves_inputs(self) -> bool:
        """Whether its inputs are kept for the backward pass, in whatever precision."""
        return self.kept in ("inputs", "product", "norm")

    @property
    def saves_output(self) -> bool:
        return self.kept == "output"

    def works_on_parts(self, cut: Sequence[bool], *shapes: Shape) -> bool:
        """Whether an operation on parts of those inputs that are ``cut`` gives the parts of its
        result, without trained weights."""
        if self.parts == "alike":
            return all(cut) and len(set(shapes)) == 1
        if self.parts == "first":
            return cut[0] and not any(cut[1:])
        return self.parts == "any"

    def at_positions(self) -> Op | None:
        """Of an operation that reads a row a position: the one that is given the positions."""
        return None

    def output_shape(self, *shapes: Shape) -> Shape:
        """Shape of the result; by default that of the first input."""
        return shapes[0]

    def params(self, *shapes: Shape) -> tuple[Param, ...]:
        """Trained tensors, named below the node that owns them."""
        return ()

    def matmul_flops(self, *sizes: Sizes, causal: Causal) -> int:
        """FLOPs of matrix products, 2 a multiply-add; all else counts as 0."""
        return 0


def require_one_of(value: object, known: Sequence[str], what: str) -> None:
    """Raises `GraphError` for a setting of an operation that is not one of those known."""
    if value not in known:
        message = f"{value!r:.40} is not {what}"
        hint = did_you_mean(str(value), known)
        raise GraphError("bad-operation", message, hint=hint)


def static(dim: Dim) -> int:
    """A size that parameters depend on; it cannot be left to run time."""
    if isinstance(dim, str):
        raise TypeError(f"dimension '{dim}' is only known at run time")
    return dim


def at_sizes(shape: Shape, sizes: Sequence[tuple[str, int]]) -> Sizes:
    """The shape with its named dimensions replaced: ``at_sizes(s, [("batch", 1), ("seq", 8)])``."""
    known = dict(sizes)
    return tuple(known[dim] if isinstance(dim, str) else dim for dim in shape)
