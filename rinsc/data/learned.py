"""Tokenizers learned from a text: once, and found again as long as the text is the same."""

from __future__ import annotations

import importlib.metadata
import json
import warnings
from contextlib import suppress
from pathlib import Path

from rinsc.data import corpora
from rinsc.data.documents import Source
from rinsc.data.names import tokens_folder
from rinsc.data.tokenizer import BytePairTokenizer, tokenizer_from_state, train_tokenizer
from rinsc.errors import OutputError, RinscError
from rinsc.extras import require
from rinsc.storage.files import make_folder, read_json, short_digest, text_digest, write_atomically

FORMAT = 1  # raised whenever the same text would give another tokenizer


class UnusedTokensWarning(UserWarning):
    """A text gives fewer tokens than the vocabulary of the model has."""


def learned_tokenizer(source: Source, vocab_size: int) -> BytePairTokenizer:
    """One learned from the first `corpora.TOKENIZER_BYTES` of a text, or found where it was once.

    It is kept beside the tokens, as learning takes seconds. It warns of a text that gives fewer
    tokens than those that are asked for.
    """
    require("tokenizers")
    path = tokenizer_path(source, vocab_size)
    tokenizer = _kept(path)
    if tokenizer is None:
        texts = corpora.training_texts(source, corpora.TOKENIZER_BYTES)
        tokenizer = train_tokenizer(texts, vocab_size)
        _keep(path, tokenizer)
    known = tokenizer.vocab_size
    if known < vocab_size:
        message = (
            f"the text gives {known} tokens, so {vocab_size - known} of the vocabulary's "
            f"{vocab_size} are never used"
        )
        warnings.warn(message, UnusedTokensWarning, stacklevel=2)
    return tokenizer


def tokenizer_path(source: Source, vocab_size: int) -> Path:
    """The file of this tokenizer, called by a digest of all that it depends on."""
    facts = {
        "format": FORMAT,
        "source": dict(source.identity()),
        "most_bytes": corpora.TOKENIZER_BYTES,
        "vocab_size": vocab_size,
        "tokenizers": importlib.metadata.version("tokenizers"),
    }
    digest = short_digest(json.dumps(facts, sort_keys=True))
    return tokens_folder() / f"tokenizer-{digest}.json"


def _kept(path: Path) -> BytePairTokenizer | None:
    """The tokenizer of a file; None where there is none, or not as it was written."""
    try:
        record = read_json(path)
        state = record["state"]
        return tokenizer_from_state(state) if text_digest(state) == record["sha256"] else None
    except (OSError, ValueError, TypeError, LookupError, AttributeError, RinscError):
        return None


def _keep(path: Path, tokenizer: BytePairTokenizer) -> None:
    state = tokenizer.to_state()
    with suppress(OutputError):  # it is learned again then
        make_folder(path.parent)
        write_atomically(path, json.dumps({"state": state, "sha256": text_digest(state)}))
