"""What embeddings of pictures and texts are worth: classes without training, and retrieval.

All from the products of unit vectors, (pictures, width) and (texts, width):

    >>> pictures = np.eye(3, dtype=np.float32)
    >>> classified(pictures, np.array([0, 1, 2]), pictures[[0, 1, 1]]).correct
    2
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rinsc.objectives import wilson_interval

Rows = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]

CUTOFFS = (1, 5)  # of recall
AT_ONCE = 1024  # pictures or texts that are compared with all others


def unit_rows(embeddings: Rows) -> Rows:
    """Each row divided by its length, as SigLIP compares them."""
    lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    unit: Rows = embeddings / np.maximum(lengths, np.finfo(np.float32).tiny)
    return unit


def class_rows(texts: Rows, classes: int) -> Rows:
    """One unit vector a class: the mean of those of its texts, (classes · templates, width), which
    stand together."""
    width = texts.shape[-1]
    return unit_rows(unit_rows(texts).reshape(classes, -1, width).mean(axis=1))


@dataclass(frozen=True)
class Share:
    """How many of ``count`` came out right; ``chance`` is what guessing gives."""

    correct: int
    count: int
    chance: float

    @property
    def value(self) -> float:
        return self.correct / self.count

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95 %: what another draw of as many pictures may give."""
        return wilson_interval(self.correct, self.count)

    def facts(self) -> dict[str, object]:
        """It as plain data."""
        low, high = self.interval
        counts = {"correct": self.correct, "count": self.count}
        return {"value": self.value, "low": low, "high": high, "chance": self.chance, **counts}


def classified(pictures: Rows, labels: Indices, classes: Rows) -> Share:
    """Each picture is of the class that is nearest to it; of equals the first."""
    predicted = np.concatenate(
        [
            (pictures[start : start + AT_ONCE] @ classes.T).argmax(axis=1)
            for start in range(0, len(pictures), AT_ONCE)
        ]
    )
    chance = 1 / len(classes)
    return Share(int((predicted == labels).sum()), len(labels), chance)


@dataclass(frozen=True)
class Retrieval:
    """Recall at each of `CUTOFFS`: of the texts for a picture, and of the pictures for a text."""

    texts: Mapping[int, Share]
    pictures: Mapping[int, Share]

    def facts(self) -> dict[str, object]:
        """It as plain data."""
        return {
            f"{name}_at_{cutoff}": share.facts()
            for name, shares in (("text", self.texts), ("picture", self.pictures))
            for cutoff, share in shares.items()
        }


def retrieval(pictures: Rows, texts: Rows, text_of: Indices) -> Retrieval:
    """Recall of distinct ``texts``, of which ``text_of`` (pictures,) says each picture's own.

    A picture is right where its text is among the nearest, a text where any of its pictures is.
    Every text must have a picture.
    """
    right_text = _ranks(pictures, texts, _one_hot(text_of, len(texts)))
    right_picture = _ranks(texts, pictures, _one_hot(text_of, len(texts)).T)
    of_text = np.bincount(text_of, minlength=len(texts))
    return Retrieval(
        {cutoff: _within(right_text, cutoff, np.ones(1), len(texts)) for cutoff in CUTOFFS},
        {cutoff: _within(right_picture, cutoff, of_text, len(pictures)) for cutoff in CUTOFFS},
    )


def _one_hot(text_of: Indices, texts: int) -> npt.NDArray[np.bool_]:
    is_own: npt.NDArray[np.bool_] = text_of[:, None] == np.arange(texts)
    return is_own


def _ranks(queries: Rows, others: Rows, is_right: npt.NDArray[np.bool_]) -> Indices:
    """For each query how many others are as near as the nearest right one, or nearer: those that
    are equal count against it."""
    ranks = []
    for start in range(0, len(queries), AT_ONCE):
        scores = queries[start : start + AT_ONCE] @ others.T
        right = is_right[start : start + AT_ONCE]
        best = np.where(right, scores, -np.inf).max(axis=1, keepdims=True)
        ranks.append(((scores >= best) & ~right).sum(axis=1))
    return np.concatenate(ranks)


def _within(
    ranks: Indices, cutoff: int, right: npt.NDArray[np.float64 | np.int64], others: int
) -> Share:
    """How many are within the cutoff; by chance, where so many of all others are right."""
    missing = np.ones(len(right))
    for drawn in range(min(cutoff, others)):
        missing *= np.maximum(others - right - drawn, 0) / (others - drawn)
    return Share(int((ranks < cutoff).sum()), len(ranks), float(1 - missing.mean()))


def nearest(picture: Rows, texts: Rows, count: int) -> Sequence[int]:
    """The texts that are nearest to one picture (width,), the nearest first."""
    order = np.argsort(-(texts @ picture), kind="stable")[:count]
    return [int(index) for index in order]
