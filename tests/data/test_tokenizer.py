"""The tokenizer: lossless on any text, deterministic, and of exactly the size asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rinsc.data import pieces
from rinsc.data.documents import Corpus
from rinsc.data.tokenizer import (
    BytePairTokenizer,
    check_vocabulary,
    load_tokenizer,
    train_tokenizer,
)
from rinsc.errors import DataError


@pytest.fixture(scope="module")
def trained() -> BytePairTokenizer:
    return train_tokenizer(["the king, the queen and the thing\n" * 40], 270)


@given(text=st.text())
def test_any_text_survives_and_every_byte_is_counted(trained: BytePairTokenizer, text: str) -> None:
    ids = trained.encode(text)
    assert trained.decode(ids) == text
    assert trained.token_bytes[ids].sum() == len(text.encode("utf-8"))


def test_long_texts_are_encoded_in_pieces_as_in_one(
    trained: BytePairTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "the king\n\n  é " * 50
    whole = trained.backend_tokenizer.encode(text).ids
    monkeypatch.setattr(pieces, "PIECE_BYTES", 64)
    monkeypatch.setattr(pieces, "CONTEXT_BYTES", 16)
    assert trained.encode(text).tolist() == whole


def test_training_is_deterministic_and_of_the_size_asked_for(
    corpus: Corpus, tokenizer: BytePairTokenizer
) -> None:
    again = train_tokenizer([document.text for document in corpus.train], tokenizer.vocab_size)
    assert again.to_json() == tokenizer.to_json()
    assert again.vocab_size == 307


def test_real_text_takes_fewer_tokens_than_bytes(
    corpus: Corpus, tokenizer: BytePairTokenizer
) -> None:
    text = corpus.held_out[0].text
    assert len(tokenizer.encode(text)) < 0.75 * len(text.encode())


def test_a_saved_tokenizer_is_the_same(tmp_path: Path, tokenizer: BytePairTokenizer) -> None:
    path = tmp_path / "tokenizer.json"
    tokenizer.save(path)
    loaded = load_tokenizer(path)
    assert loaded.to_json() == tokenizer.to_json()
    assert np.array_equal(loaded.token_bytes, tokenizer.token_bytes)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"\xff\xfe"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(DataError):
        load_tokenizer(path)
    with pytest.raises(DataError):
        load_tokenizer(tmp_path / "missing.json")


@pytest.mark.parametrize("size", [0, 255, 1 << 17])
def test_impossible_vocabularies_are_refused(size: int) -> None:
    with pytest.raises(DataError, match="cannot be trained"):
        train_tokenizer(["text"], size)


def test_too_little_text_for_the_vocabulary_is_an_error() -> None:
    with pytest.raises(DataError, match="the model 4096"):
        train_tokenizer(["a few words only, a few words"], 4096)


def test_a_vocabulary_larger_than_the_models_is_an_error(tokenizer: BytePairTokenizer) -> None:
    check_vocabulary(tokenizer, 307)
    check_vocabulary(tokenizer, 512)  # padded
    with pytest.raises(DataError, match="has 307 tokens, the model 306"):
        check_vocabulary(tokenizer, 306)


def test_the_check_for_lossless_encoding_can_fail(tokenizer: BytePairTokenizer) -> None:
    ids = tokenizer.encode("a text")
    tokenizer.require_lossless(ids, "a text")
    with pytest.raises(DataError, match="text changes"):
        tokenizer.require_lossless(ids[:-1], "a text")
