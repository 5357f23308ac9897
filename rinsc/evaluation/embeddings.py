"""Pictures and texts as unit vectors, by the two towers of a trained model, at some rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from rinsc.backends.torch import CompiledTowers
from rinsc.backends.torch.device import autocast, evaluating
from rinsc.backends.torch.memory import allocation_errors
from rinsc.data.pairs import CaptionTokenizer
from rinsc.data.pairs.examples import normalised
from rinsc.errors import LoweringError
from rinsc.evaluation.matching import Rows, unit_rows
from rinsc.formats import TrainingPrecision

if TYPE_CHECKING:
    from rinsc.data.pairs.decoding import Pixels

BATCH = 128  # pictures or texts of a pass


class Pictures(Protocol):
    """Pictures by index, from 0 to 255."""

    def __len__(self) -> int: ...
    def pixels(self, index: Any) -> Pixels: ...


class Embedder:
    """The towers of a model with its tokenizer; what one tower makes at its rounds is kept.

    >>> embedder = Embedder(module, tokenizer)  # doctest: +SKIP
    >>> embedder.texts(["a dog", "a cat"], {"text.C": 2}).shape  # doctest: +SKIP
    (2, 128)
    """

    def __init__(
        self,
        module: CompiledTowers,
        tokenizer: CaptionTokenizer,
        precision: TrainingPrecision = "fp32",
    ) -> None:
        pairing = module.spec.pairing
        if pairing is None:
            message = f"'{module.spec.text}' does not compare pictures with texts"
            hint = "give a model with a tower of pictures and one of texts"
            raise LoweringError("no-pairing", message, hint=hint)
        self._pairing, self._module, self._tokenizer = pairing, module, tokenizer
        self._precision = precision
        self._device = next(module.parameters()).device
        self._known: dict[tuple[object, ...], Rows] = {}

    @property
    def image_size(self) -> int:
        """Pixels of a side of the pictures."""
        tower = self._module.spec.towers[self._pairing.image]
        size: int = tower.settings_of(tower.kind).image_size
        return size

    def pictures(self, pictures: Pictures, rounds: Mapping[str, int]) -> Rows:
        """Unit vectors (pictures, width)."""

        def batch(start: int, stop: int) -> torch.Tensor:
            return torch.from_numpy(normalised(pictures.pixels(np.arange(start, stop))))

        return self._rows(self._pairing.image, id(pictures), len(pictures), batch, rounds)

    def texts(self, texts: Sequence[str], rounds: Mapping[str, int]) -> Rows:
        """Unit vectors (texts, width)."""

        def batch(start: int, stop: int) -> torch.Tensor:
            return torch.from_numpy(self._tokenizer.encode(texts[start:stop]))

        return self._rows(self._pairing.text, tuple(texts), len(texts), batch, rounds)

    @allocation_errors()
    def _rows(
        self, tower: str, inputs: object, count: int, batch: Any, rounds: Mapping[str, int]
    ) -> Rows:
        own = {name: number for name, number in rounds.items() if name.startswith(f"{tower}.")}
        key = (tower, inputs, tuple(sorted(own.items())))
        if key not in self._known:
            rows = []
            with (
                evaluating(self._module),
                torch.no_grad(),
                autocast(self._device, self._precision),
            ):
                for start in range(0, count, BATCH):
                    values = batch(start, min(start + BATCH, count)).to(self._device)
                    result = self._module(**{tower: values}, rounds=own or None)[tower]
                    rows.append(result.float().numpy(force=True))
            self._known[key] = unit_rows(np.concatenate(rows))
        return self._known[key]
