"""Captions as SigLIP has them: plain lower-case words, an end token, and padding to the context.

    "A dog's_life!"  ->  "a dogs life"  ->  [412, 87, 301, 1, 1, 1, 1, 1]

The last token is always the end token, which is what padding is made of, too. There is no mask.
"""

from __future__ import annotations

import hashlib
import json
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rinsc.data.documents import free_unused_memory
from rinsc.data.names import data_error
from rinsc.data.pieces import learned_texts
from rinsc.data.tokenizer import (
    MAX_VOCAB,
    MIN_PAIR_COUNT,
    MIN_VOCAB,
    load_tokenizer,
    tokenizers_library,
)
from rinsc.storage.files import parse_json, write_atomically
from rinsc.text.panics import library_failures
from rinsc.text.tokenizer_files import TOKENIZER_CONFIG_FILE, TOKENIZER_FILE, read_declared

UNKNOWN, END = "<unk>", "</s>"  # ids 0 and 1 of a learned tokenizer; the end is the padding
END_ID = 1
ENCODED_AT_ONCE = 4096  # captions
# What Python, Rust and JavaScript all take for white space.
SPACES = "\t-\r\x1c- \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
PUNCTUATION = "".join(f"\\{mark}" for mark in string.punctuation if mark != "_")
_PUNCTUATION = re.compile(f"[{PUNCTUATION}]")
_SPACES = re.compile(f"[{SPACES}]+")

Ids = npt.NDArray[np.int64]


def canonical(text: str) -> str:
    """A caption as the text tower reads it: lower case, without punctuation, single spaces.

    >>> canonical("  A dog's_life!\\n")
    'a dogs life'
    """
    text = unicodedata.normalize("NFC", text).replace("_", " ")
    return _SPACES.sub(" ", _PUNCTUATION.sub("", text).lower()).strip(" ")


class CaptionTokenizer:
    """Captions to rows of ids, all of one length; any tokenizer of the library tokenizers.

    A caption is made canonical first. What the tokenizer's file adds to a text stays; where that
    is no end token and it has one, the end token is added. ``pad_id`` fills a row up.
    """

    def __init__(self, backend: Any, context: int, end: str | None, padding: str | None) -> None:
        backend.no_padding()
        backend.no_truncation()
        self._backend, self.context = backend, context
        self._end, self._padding = end, padding
        end_id = None if end is None else backend.token_to_id(end)
        pad_id = None if padding is None else backend.token_to_id(padding)
        self.end_id: int | None = end_id
        self.pad_id: int = pad_id if pad_id is not None else END_ID if end_id is None else end_id
        vocabulary = backend.get_vocab(with_added_tokens=True)
        self.vocab_size: int = max([*vocabulary.values(), self.pad_id]) + 1

    def encode(self, texts: Sequence[str]) -> Ids:
        """Ids (captions, context), cut or filled up."""
        rows = np.full((len(texts), self.context), self.pad_id, dtype=np.int64)
        for row, ids in zip(rows, self.tokens(texts), strict=True):
            fitted = self.fitted(ids)
            row[: len(fitted)] = fitted
        return rows

    def tokens(self, texts: Iterable[str]) -> Iterator[Ids]:
        """All ids of each caption, with the end token, neither cut nor filled up."""
        batch: list[str] = []
        for text in texts:
            batch.append(canonical(text))
            if len(batch) == ENCODED_AT_ONCE:
                yield from self._encoded(batch)
                batch = []
        yield from self._encoded(batch)

    def fitted(self, ids: Ids) -> Ids:
        """The ids that fit into the context, of which the last one stays the end token."""
        if len(ids) <= self.context:
            return ids
        cut = ids[: self.context].copy()
        if self.end_id is not None:
            cut[-1] = self.end_id
        return cut

    def _encoded(self, texts: list[str]) -> Iterator[Ids]:
        with library_failures("the tokenizer cannot encode a caption"):
            encoded = self._backend.encode_batch_fast(texts, add_special_tokens=True)
        for one in encoded:
            ids = np.array(one.ids, dtype=np.int64)
            if self.end_id is not None and (not len(ids) or ids[-1] != self.end_id):
                ids = np.append(ids, self.end_id)
            yield ids

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.to_state().encode("utf-8")).hexdigest()

    def to_state(self) -> str:
        """All that `caption_tokenizer_from_state` needs in another process."""
        return json.dumps([self._backend.to_str(), self.context, self._end, self._padding])

    def save_folder(self, folder: Path) -> None:
        """Write what transformers and transformers.js read; raises OutputError.

        Both cut and fill up to ``model_max_length`` where they are told to, as SigLIP needs.
        """
        library = tokenizers_library()
        saved = library.Tokenizer.from_str(self._backend.to_str())
        if self.end_id is not None and saved.encode("a").ids[-1:] != [self.end_id]:
            saved = library.Tokenizer.from_str(
                _ending(saved.to_str(), self._end or "", self.end_id)
            )
        padding = saved.id_to_token(self.pad_id)
        saved.enable_truncation(self.context)
        if padding is not None:
            saved.enable_padding(pad_id=self.pad_id, pad_token=padding, length=self.context)
        tokens = {"eos_token": self._end, "pad_token": padding}
        if saved.token_to_id(UNKNOWN) is not None:
            tokens["unk_token"] = UNKNOWN
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "backend": "tokenizers",
            "model_max_length": self.context,
            "model_input_names": ["input_ids"],
            "padding_side": "right",
            "clean_up_tokenization_spaces": False,
            **{use: text for use, text in tokens.items() if text is not None},
        }
        write_atomically(folder / TOKENIZER_FILE, saved.to_str(pretty=True))
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / TOKENIZER_CONFIG_FILE, text)


def train_caption_tokenizer(
    captions: Iterable[str], vocab_size: int, context: int
) -> CaptionTokenizer:
    """Learn byte-level BPE of at most ``vocab_size`` tokens; equal captions give equal ones.

    Its file makes captions canonical by itself, so that every tool makes the same ids. Raises
    DataError where the size is out of range.
    """
    least = MIN_VOCAB + 2
    if not least <= vocab_size <= MAX_VOCAB:
        message = f"a vocabulary of {vocab_size} tokens cannot be learned from captions"
        hint = f"choose from {least} to {MAX_VOCAB}"
        raise data_error("bad-vocabulary-size", message, None, hint)
    library = tokenizers_library()
    backend = library.Tokenizer(library.models.BPE())
    backend.normalizer = _normalizer(library)
    backend.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = library.decoders.ByteLevel()
    trainer = library.trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_PAIR_COUNT,
        show_progress=False,
        special_tokens=[UNKNOWN, END],
        initial_alphabet=library.pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(learned_texts(map(canonical, captions)), trainer)
    del trainer
    free_unused_memory()
    backend = library.Tokenizer.from_str(_ending(backend.to_str(), END, END_ID))
    return CaptionTokenizer(backend, context, END, END)


def load_caption_tokenizer(path: Path, context: int) -> CaptionTokenizer:
    """A tokenizer.json, or the one in a folder: a user's own, or that of a run.

    Padding is what its files declare, else the end token. Raises DataError.
    """
    load_tokenizer(path)  # says what is wrong with a file
    file = path / TOKENIZER_FILE if path.is_dir() else path
    library = tokenizers_library()
    backend = library.Tokenizer.from_file(str(file))
    declared = read_declared(file.parent)
    filled = (backend.padding or {}).get("pad_token")
    end = declared.eos_token or (END if backend.token_to_id(END) is not None else None)
    return CaptionTokenizer(backend, context, end, declared.pad_token or filled or end)


def caption_tokenizer_from_state(state: str) -> CaptionTokenizer:
    """The tokenizer whose ``to_state`` this is."""
    text, context, end, padding = parse_json(state)
    backend = tokenizers_library().Tokenizer.from_str(text)
    return CaptionTokenizer(backend, context, end, padding)


def _normalizer(library: Any) -> Any:
    """`canonical`, as the library writes it into a file."""
    normalizers, regex = library.normalizers, library.Regex
    return normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Replace("_", " "),
            normalizers.Replace(regex(f"[{PUNCTUATION}]"), ""),
            normalizers.Lowercase(),
            normalizers.Replace(regex(f"[{SPACES}]+"), " "),
            normalizers.Replace(regex("^ | $"), ""),
        ]
    )


def _ending(tokenizer: str, end: str, end_id: int) -> str:
    """The text of a tokenizer.json that adds the end token behind whatever it adds itself."""
    values = parse_json(tokenizer)
    piece = {"SpecialToken": {"id": end, "type_id": 0}}
    facts = {end: {"id": end, "ids": [end_id], "tokens": [end]}}
    before = values.get("post_processor")
    processors = before["processors"] if before and before["type"] == "Sequence" else [before]
    templates = [one for one in processors if one and one["type"] == "TemplateProcessing"]
    for template in templates:
        template["single"].append(piece)
        template["special_tokens"].update(facts)
    if not templates:
        sequence = {"Sequence": {"id": "A", "type_id": 0}}
        added = {
            "type": "TemplateProcessing",
            "single": [sequence, piece],
            "pair": [sequence, piece, {"Sequence": {"id": "B", "type_id": 1}}, piece],
            "special_tokens": facts,
        }
        others = [one for one in processors if one]
        every = {"type": "Sequence", "processors": [*others, added]}
        values["post_processor"] = every if others else added
    return json.dumps(values)
