"""What a run trains on: pictures, each with one of its captions; seed and epoch decide which."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rinsc.data.batches import EpochOrder, evenly_spaced
from rinsc.data.names import data_error
from rinsc.data.pairs.captions import CaptionTokenizer, Ids, train_caption_tokenizer
from rinsc.data.pairs.decoding import Pixels
from rinsc.data.pairs.opened import Indices, PicturePairs
from rinsc.errors import plural
from rinsc.progress import Progress

LEARNED_CAPTIONS = 5_000_000  # that a tokenizer is learned from


@dataclass(frozen=True)
class Pair:
    """A picture (3, side, side) of whole numbers, its caption (context,), and a number that equal
    captions share."""

    pixels: Pixels
    input_ids: Ids
    caption: int


class EncodedCaptions:
    """The captions of some pictures as ids, in one array: what is neither cut nor filled up is
    some dozens of bytes each.

    ``truncated`` counts the captions of which the end is missing.
    """

    def __init__(self, pairs: PicturePairs, chosen: Indices, tokenizer: CaptionTokenizer) -> None:
        self._tokenizer = tokenizer
        counts = [len(pairs.caption_range(int(index))) for index in chosen]
        self._last = np.cumsum(counts, dtype=np.int64)
        self.count = sum(counts)
        self.truncated = 0
        ids, ends = array("I"), array("q")
        texts = (text for index in chosen for text in pairs.captions(int(index)))
        for tokens in tokenizer.tokens(texts):
            self.truncated += len(tokens) > tokenizer.context
            ids.extend(tokenizer.fitted(tokens).tolist())
            ends.append(len(ids))
        self._ends = np.array(ends, dtype=np.int64)
        self._ids = np.array(ids, dtype=np.uint32)

    def captions_of(self, position: int) -> range:
        """Which captions are those of the picture at this position."""
        return range(int(self._last[position - 1]) if position else 0, int(self._last[position]))

    def row(self, caption: int) -> tuple[Ids, int]:
        """Ids (context,) of a caption, and the number that equal captions share."""
        start = int(self._ends[caption - 1]) if caption else 0
        ids = self._ids[start : int(self._ends[caption])]
        row = np.full(self._tokenizer.context, self._tokenizer.pad_id, dtype=np.int64)
        row[: len(ids)] = ids
        digest = hashlib.blake2b(row.tobytes(), digest_size=8).digest()
        return row, int.from_bytes(digest, "little", signed=True)

    def tell_truncated(self, progress: Progress) -> None:
        """A note where captions were cut."""
        if self.truncated:
            of_all = plural(self.count, "caption", f"{self.count:,}")
            most = self._tokenizer.context
            cut = f"{self.truncated:,} of {of_all} have more than {most} tokens"
            progress.note(f"{cut}, and lose the rest")


@dataclass(frozen=True)
class TrainingPairs:
    """The pictures to train on, each once an epoch with one of its captions.

    Pair ``index`` is a pure function of the arguments and ``index``, so a run goes on exactly.
    """

    pairs: PicturePairs
    tokenizer: CaptionTokenizer
    seed: int
    captions: EncodedCaptions = field(init=False)
    order: EpochOrder = field(init=False)

    def __post_init__(self) -> None:
        train = self.pairs.train
        object.__setattr__(self, "captions", EncodedCaptions(self.pairs, train, self.tokenizer))
        object.__setattr__(self, "order", EpochOrder(len(train), self.seed))
        object.__setattr__(self, "_train", train)

    def __len__(self) -> int:
        """Pictures in an epoch."""
        return self.order.count

    def window(self, index: int) -> Pair:
        """The pair at ``index``, counted from 0 through all epochs."""
        position = self.order.item(index)
        several = self.captions.captions_of(position)
        drawn = _draw(self.seed, index // len(self), position) % len(several)
        ids, caption = self.captions.row(several[drawn])
        train: Indices = self._train  # type: ignore[attr-defined]
        return Pair(self.pairs.pixels(int(train[position])), ids, caption)


@dataclass(frozen=True)
class HeldOutPairs:
    """Pictures that are never trained on, each with its first caption; ``chosen`` by index."""

    pairs: PicturePairs
    tokenizer: CaptionTokenizer
    chosen: Indices | None = None
    captions: EncodedCaptions = field(init=False)

    def __post_init__(self) -> None:
        if self.chosen is None:
            object.__setattr__(self, "chosen", self.pairs.held_out)
        captions = EncodedCaptions(self.pairs, self._chosen, self.tokenizer)
        object.__setattr__(self, "captions", captions)

    @property
    def _chosen(self) -> Indices:
        assert self.chosen is not None
        return self.chosen

    def __len__(self) -> int:
        return len(self._chosen)

    def window(self, index: int) -> Pair:
        ids, caption = self.captions.row(self.captions.captions_of(index)[0])
        return Pair(self.pairs.pixels(int(self._chosen[index])), ids, caption)

    def spread(self, count: int | None) -> HeldOutPairs:
        """At most ``count`` of them, from all over; None means all."""
        return HeldOutPairs(self.pairs, self.tokenizer, evenly_spaced(self._chosen, count))


def normalised(pixels: Pixels) -> npt.NDArray[np.float32]:
    """Whole numbers from 0 to 255 as numbers from -1 to 1, as SigLIP reads them."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def collate_pairs(pairs: Sequence[Pair]) -> dict[str, npt.NDArray[Any]]:
    """A batch: pixels (batch, 3, side, side), ids (batch, context), captions (batch,)."""
    return {
        "pixel_values": normalised(np.stack([pair.pixels for pair in pairs])),
        "input_ids": np.stack([pair.input_ids for pair in pairs]),
        "captions": np.array([pair.caption for pair in pairs], dtype=np.int64),
    }


def learned_caption_tokenizer(
    pairs: PicturePairs, vocab_size: int, context: int
) -> CaptionTokenizer:
    """One learned from the captions of the pictures to train on."""
    if context < 2:
        message = f"a context of {context} has no room for a word and the end token"
        raise data_error("bad-option", message, pairs.name, "give the text tower 2 or more")
    return train_caption_tokenizer(_captions(pairs, LEARNED_CAPTIONS), vocab_size, context)


def _captions(pairs: PicturePairs, most: int) -> Iterable[str]:
    texts = (text for index in pairs.train for text in pairs.captions(int(index)))
    return (text for _, text in zip(range(most), texts, strict=False))


def _draw(seed: int, epoch: int, position: int) -> int:
    """A number that looks drawn at random, and is always the same (SplitMix64)."""
    mask = (1 << 64) - 1
    value = (seed * 0x9E3779B97F4A7C15 + epoch * 0xD1342543DE82EF95 + position + 1) & mask
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB), (31, 1)):
        value = ((value ^ (value >> shift)) * factor) & mask
    return value
