"""What models are trained for: each objective is one file here and one row of `OBJECTIVES`.

An objective says which models and data it takes, what the loss is, and what is measured on data
that was held out. Training, budgets, results and plots know the protocol alone.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from rinsc.layers.kind import require_language_model, require_pictures
from rinsc.spec.model import require_spec
from rinsc.spec.towers import paired_towers

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import torch
    from torch import nn

    from rinsc.formats import TrainingPrecision
    from rinsc.graph import BlockGraph, Rounds, TowersGraph
    from rinsc.progress import Progress
    from rinsc.spec import ModelSpec, TowersSpec

Part: TypeAlias = Literal["sample", "whole"]  # of what is held out, that a figure is of
Observe: TypeAlias = Callable[[int, int], None]  # held-out examples done, of how many


@dataclass(frozen=True)
class Figure:
    """A number that says how good a model is: its name in files, its head in tables, in words."""

    name: str
    head: str
    words: str
    text: Callable[[float], str]
    less_is_better: bool = True
    apart: Callable[[float], str] = "{:.4g}".format  # how far two of them are apart, in words

    @property
    def loss_name(self) -> str:
        """Of what `loss` gives."""
        return self.name if self.less_is_better else f"1 - {self.name}"

    def loss(self, value: float) -> float:
        """The figure, or for one of which more is better what is missing from 1."""
        return value if self.less_is_better else 1 - value


@dataclass(frozen=True)
class Pieces:
    """The main figure piece by piece, ``(pieces,)`` each: that of several pieces is the sum of
    their ``totals`` over the sum of their ``sizes``.

    A piece of which not all was measured, as the beginning of a text, is not ``is_whole``.
    """

    totals: npt.NDArray[np.float64]
    sizes: npt.NDArray[np.int64]
    is_whole: npt.NDArray[np.bool_]

    @property
    def figure(self) -> float:
        return float(self.totals.sum()) / float(self.sizes.sum())

    def figure_of(self, times: npt.NDArray[np.int64]) -> float:
        """Where each piece stands so many times."""
        return float(times @ self.totals) / float(times @ self.sizes)

    def to_bytes(self) -> bytes:
        """As a file of numpy, ``(2, pieces)``: totals and sizes of those that are whole."""
        import numpy as np

        file = io.BytesIO()
        values = np.stack([self.totals, self.sizes])[:, self.is_whole]
        np.save(file, values.astype(np.float32))  # a size is exact, as it is below 2^24
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Pieces:
        """What `to_bytes` gave; raises ValueError for any other file."""
        import numpy as np

        values = np.load(io.BytesIO(data), allow_pickle=False)
        if values.ndim != 2 or len(values) != 2 or not values.size:
            raise ValueError("it has no pieces")
        totals, sizes = values.astype(np.float64)
        return cls(totals, sizes.astype(np.int64), np.ones(len(sizes), dtype=np.bool_))

    def only(self, chosen: npt.NDArray[np.bool_]) -> Pieces:
        """Those of the first pieces that are chosen, a bool each."""
        (indices,) = chosen.nonzero()
        return Pieces(self.totals[indices], self.sizes[indices], self.is_whole[indices])


class Quality(Protocol):
    """What a model came to on held-out data."""

    @property
    def figures(self) -> Mapping[str, float]:
        """Each figure of the objective by its name, the main one first."""

    @property
    def extent(self) -> Mapping[str, int]:
        """How much was measured: ``{"bytes": 56789}``."""

    @property
    def pieces(self) -> Pieces | None:
        """Each held-out example as a piece of its own; None where nobody kept them apart."""


class HeldOut(Protocol):
    """Examples that a run never trains on."""

    def __len__(self) -> int: ...

    def spread(self, count: int | None) -> HeldOut:
        """At most ``count`` of them, from all over; None means all."""

    def part(self, count: int | None) -> Part:
        """What `spread` of so many gives."""


class Examples(Protocol):
    """What a run trains on: example ``index`` of the run, in the order of its steps."""

    def __len__(self) -> int:
        """Examples in an epoch."""

    def window(self, index: int) -> Any: ...


class Data(Protocol):
    """Data that an objective has opened; ``record`` says what it was, for ``data.json``."""

    @property
    def record(self) -> Mapping[str, object]: ...


class Settings(Protocol):
    """What an objective reads of the settings of a run."""

    @property
    def sequence_length(self) -> int: ...
    @property
    def seed(self) -> int: ...
    @property
    def packing(self) -> Literal["across", "documents"]: ...


@dataclass(frozen=True)
class Request:
    """What a run asks of its data: its name, and for text the tokenizer, if one is given.

    ``begun`` is what the record of a run that goes on says of its tokenizer; ``borrowed`` gives
    that of the run whose weights this one begins with. ``progress`` is told of long work, if any.
    """

    data: str
    spec: Any  # ModelSpec or TowersSpec
    tokenizer: Path | None = None
    begun: Mapping[str, object] | None = None
    borrowed: Callable[[], Any] | None = None
    resume: bool = False
    progress: Progress | None = None


class Objective(Protocol):
    """One way to train a model."""

    name: str
    figures: Sequence[Figure]  # the first one is the main one
    piece: str  # of held-out data, as `Pieces` has them
    too_few: str  # said where these are too few for an interval
    noise: str  # that an interval over pieces covers: the draw of what

    def dimensions(self, data: str) -> Mapping[str, Any]:
        """The dimensions that the data gives to a model that does not say its own."""

    def prepare(self, request: Request) -> str:
        """Make the data ready, in the first process; returns what the others open it with."""

    def open(self, request: Request, state: str) -> Data: ...

    def save(self, state: str, folder: Path, spec: Any) -> None:
        """Write what a user of the trained model needs of the data, such as a tokenizer."""

    def check_data(self, spec: Any, data: Any, settings: Settings) -> None:
        """Raises SpecError and DataError where data, model and settings do not fit."""

    def module(self, spec: Any, device: torch.device) -> nn.Module:
        """A fresh model around the emitted module ``model``; its forward pass takes what `collate`
        gives, ``rounds``, ``noise_seed`` and ``num_items_in_batch``, and gives the ``loss``: the
        sum over the targets, divided by that number."""

    def examples(self, data: Any, settings: Settings) -> Examples: ...

    def collate(self, examples: Sequence[Any]) -> dict[str, torch.Tensor]:
        """One batch, (batch, …) each, with ``labels``."""

    def targets(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """How many numbers the loss of a batch is the sum of."""

    def held_out(self, data: Any, settings: Settings) -> HeldOut: ...

    def measure(
        self,
        model: nn.Module,
        held_out: Any,
        *,
        rounds: Rounds,
        precision: TrainingPrecision,
        observe: Observe = lambda done, count: None,
    ) -> Quality:
        """``model``, fresh from `module` or emitted alone, on held-out examples."""

    def measured_on(self, examples: int, part: Part) -> str:
        """What the figures of so many held-out examples are of, in words."""


Z_95 = 1.959963984540054  # of a normal distribution, for an interval of 95 %


def wilson_interval(correct: int, count: int) -> tuple[float, float]:
    """Of 95 % around the share ``correct / count``: what another draw of as many may give."""
    share = correct / count
    middle = share + Z_95**2 / (2 * count)
    half = Z_95 * math.sqrt(share * (1 - share) / count + Z_95**2 / (4 * count**2))
    whole = 1 + Z_95**2 / count
    return max(0.0, (middle - half) / whole), min(1.0, (middle + half) / whole)


def percent(value: float) -> str:
    """A share as a person reads it: ``12.50 %``."""
    return f"{100 * value:.2f} %"


def no_products(graph: BlockGraph | TowersGraph, batch: int) -> int:
    """The FLOPs of a loss without matrix products."""
    return 0


def _of_one_tower(check: Callable[[ModelSpec], None]) -> Callable[[ModelSpec | TowersSpec], None]:
    """The check, which refuses models of several towers first."""
    return lambda spec: check(require_spec(spec))


def _compares_pairs(spec: ModelSpec | TowersSpec) -> None:
    paired_towers(spec)


@dataclass(frozen=True)
class Row:
    """What is known of an objective before PyTorch is there; the rest is in its ``module``.

    ``figures`` are what is measured, the main one first: it names the numbers in the metrics of a
    run. ``check_model`` raises SpecError for a model that does not have the ports, input and
    output. ``loss_flops`` are those of the loss of a step beside the model's, of a graph and a
    batch, by the convention of the costs: matrix products alone.
    """

    module: str
    figures: tuple[Figure, ...]
    check_model: Callable[[ModelSpec | TowersSpec], None]
    loss_flops: Callable[[BlockGraph | TowersGraph, int], int] = no_products

    @property
    def figure(self) -> str:
        """The name of the main figure."""
        return self.figures[0].name


OBJECTIVES: Mapping[str, Row] = {
    "next_token": Row(
        "rinsc.objectives.next_token",
        figures=(
            Figure(
                *("bits_per_byte", "bits/byte", "bits per byte", "{:.4f}".format),
                apart="{:.4f} bits per byte".format,
            ),
            Figure("perplexity", "perplexity", "perplexity", "{:.2f}".format),
            Figure("accuracy", "accuracy", "accuracy", percent, less_is_better=False),
        ),
        check_model=_of_one_tower(require_language_model),
    ),
    "classify": Row(
        "rinsc.objectives.classify",
        figures=(
            Figure(
                *("accuracy", "accuracy", "accuracy", percent),
                less_is_better=False,
                apart=lambda value: f"{100 * value:.2f} points of accuracy",
            ),
            Figure("low", "95 % from", "low end", percent, False),
            Figure("high", "to", "high end", percent, False),
            Figure("loss", "loss", "nats per picture", "{:.4f}".format),
        ),
        check_model=_of_one_tower(require_pictures),
    ),
    "sigmoid_pairs": Row(
        "rinsc.objectives.sigmoid_pairs",
        figures=(
            Figure(
                *("nats_per_pair", "nats/pair", "nats per pair", "{:.4f}".format),
                apart="{:.4f} nats per pair".format,
            ),
            Figure("image_to_text", "image→text", "recall@1, picture to text", percent, False),
            Figure("text_to_image", "text→image", "recall@1, text to picture", percent, False),
        ),
        check_model=_compares_pairs,
    ),
}


def objective_of_data(data: str) -> str:
    """What a model is trained for on data of this name, where nobody says it.

    >>> objective_of_data("pairs:pictures"), objective_of_data("plays")
    ('sigmoid_pairs', 'next_token')
    """
    return "sigmoid_pairs" if data.startswith("pairs:") else "next_token"


@cache
def objective(name: str) -> Objective:
    """The objective of this name, one of `OBJECTIVES`."""
    loaded: Objective = import_module(OBJECTIVES[name].module).OBJECTIVE
    return loaded


def figure(name: str) -> Figure:
    """The main figure of the objective whose main figure is called so."""
    (main,) = (row.figures[0] for row in OBJECTIVES.values() if row.figure == name)
    return main
