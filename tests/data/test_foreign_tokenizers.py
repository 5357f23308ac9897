"""Tokenizers that others trained: ids, ends of documents, and bytes that add up for all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from rinsc.data.batches import tokenize
from rinsc.data.cache import prepare
from rinsc.data.corpora import open_corpus
from rinsc.data.documents import Document, split
from rinsc.data.tokenizer import BytePairTokenizer, load_tokenizer
from rinsc.errors import DataError

TEXT = "Shall I compare thee to a summer's day? Déjà vu: 12 + 30 = 42.\n\tThou art more lovely\n"
END = "<|endoftext|>"


def _byte_level(**options: Any) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(**{"add_prefix_space": False, **options})
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator([TEXT] * 9, trainer)
    return made


def _normalizing() -> tokenizers.Tokenizer:
    made = _byte_level()
    made.normalizer = normalizers.NFC()
    return made


def _word_piece() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    made.train_from_iterator([TEXT] * 9, trainer)
    made.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    made.enable_truncation(5)
    made.enable_padding(length=50)
    return made


def _unigram() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<unk>", "</s>"], unk_token="<unk>", show_progress=False
    )
    made.train_from_iterator([TEXT] * 9, trainer)
    return made


def _byte_fallback() -> tokenizers.Tokenizer:
    tokens = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *sorted(set("▁abcdesy"))]
    vocab = {token: i for i, token in enumerate(tokens)}
    made = tokenizers.Tokenizer(models.BPE(vocab, [], unk_token="<unk>", byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return made


MAKERS: dict[str, tuple[Callable[[], tokenizers.Tokenizer], str | None, bool]] = {
    "byte level": (_byte_level, END, True),
    "prefix space": (lambda: _byte_level(add_prefix_space=True), END, False),
    "normalizing": (_normalizing, END, False),
    "word piece": (_word_piece, "[SEP]", False),
    "unigram": (_unigram, "</s>", False),
    "byte fallback": (_byte_fallback, None, False),
}
MADE = {name: BytePairTokenizer(make()) for name, (make, _, _) in MAKERS.items()}


@pytest.mark.parametrize("name", MAKERS)
def test_the_kind_and_the_end_of_documents_are_found(name: str) -> None:
    _, end, byte_level = MAKERS[name]
    tokenizer = MADE[name]
    assert tokenizer.is_byte_level == byte_level
    found = tokenizer.end_of_document
    assert (None if found is None else tokenizer._backend.id_to_token(found)) == end


@pytest.mark.parametrize("name", MAKERS)
@given(text=st.text(min_size=1).map(lambda text: f"A {text} day é"))
def test_the_bytes_of_all_tokens_add_up_to_the_text(name: str, text: str) -> None:
    ids, counts = MADE[name].encode_counted(text)
    assert len(ids) == len(counts) > 0
    assert counts.sum() == len(text.encode("utf-8"))
    assert counts.min() >= 0
    assert np.array_equal(ids, MADE[name].encode(text))


@pytest.mark.parametrize("name", MAKERS)
def test_the_bytes_of_a_held_out_part(name: str) -> None:
    tokenizer = MADE[name]
    documents = [Document(str(n), TEXT * (20 + n)) for n in range(11)]
    corpus = split("x", documents)
    found = tokenize(corpus, tokenizer)
    assert len(found.held_out_bytes) == len(found.held_out)
    assert found.held_out_bytes.sum() == sum(d.byte_count for d in corpus.held_out)
    assert found.vocab_size == tokenizer.vocab_size
    ends = 0 if tokenizer.end_of_document is None else len(corpus.train)
    assert (found.train == tokenizer.end_of_document).sum() == ends
    if ends:
        assert found.held_out[-1] == tokenizer.end_of_document
        assert found.held_out_bytes[-1] == 0
        assert np.array_equal(
            found.train_starts[1:],
            np.flatnonzero(found.train == tokenizer.end_of_document)[:-1] + 1,
        )
    if tokenizer.is_byte_level:
        assert np.array_equal(found.held_out_bytes, found.token_bytes[found.held_out])
    else:
        assert len(found.token_bytes) == 0
        with pytest.raises(DataError, match="does not always stand"):
            _ = tokenizer.token_bytes


def test_the_check_of_the_bytes_can_fail() -> None:
    tokenizer = BytePairTokenizer(_unigram())
    ids = tokenizer.encode(TEXT)
    lengths = [len((tokenizer._backend.id_to_token(int(i)) or "").encode()) for i in ids]
    assert sum(lengths) != len(TEXT.encode())  # what a table of tokens would have counted


@pytest.mark.parametrize(
    "model",
    [models.WordLevel({"lark": 0}, unk_token="[UNK]"), models.WordPiece({"l": 0})],
)
def test_a_tokenizer_without_a_token_for_other_words(tmp_path: Path, model: Any) -> None:
    tokenizers.Tokenizer(model).save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path)
    corpus = split("x", [Document(str(n), TEXT * (20 + n)) for n in range(11)])
    for encode in (lambda: tokenize(corpus, tokenizer), lambda: tokenizer.encode(TEXT)):
        with pytest.raises(DataError) as caught:
            encode()
        assert caught.value.code == "tokenizer-failed"
        assert "[UNK]" in str(caught.value)


def test_a_tokenizer_that_makes_nothing_of_a_text(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text(TEXT * 100)
    nothing = BytePairTokenizer(tokenizers.Tokenizer(models.BPE({"\u1234": 0}, [])))
    with pytest.raises(DataError) as caught:
        prepare(open_corpus(f"text:{path}"), nothing, folder=tmp_path / "tokens")
    assert caught.value.code == "no-tokens"
    assert [each.suffix for each in (tmp_path / "tokens").iterdir()] == [".lock"]


def test_the_name_of_a_special_token_in_a_text_is_that_token() -> None:
    tokenizer = MADE["byte level"]
    text = f"before {END} after"
    ids, counts = tokenizer.encode_counted(text)
    assert ids.tolist() == _byte_level().encode(text).ids
    assert (ids == tokenizer.end_of_document).sum() == 1
    assert tokenizer.decode(ids) == text
    assert counts.sum() == len(text)
    tokenizer.require_lossless(ids, text)
    again = BytePairTokenizer(tokenizers.Tokenizer.from_str(tokenizer.to_json()))
    assert np.array_equal(again.encode(text), ids)


def test_names_of_special_tokens_can_be_characters() -> None:
    tokenizer = MADE["byte level"]
    text = f"before {END} after"
    for ids in (
        tokenizer.encode(text, characters=True),
        BytePairTokenizer(_byte_level(), legacy=True).encode(text),
    ):
        assert tokenizer.end_of_document not in ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.token_bytes[ids].sum() == len(text)


def test_nothing_is_added_cut_or_filled_up() -> None:
    tokenizer = MADE["word piece"]
    ids = tokenizer.encode(TEXT * 10)
    assert len(ids) > 50
    assert not {1, 2} & set(ids.tolist())


def test_a_large_vocabulary_has_ids_of_32_bits() -> None:
    made = _byte_level()
    size = made.get_vocab_size()
    made.add_tokens([f"word{n}" for n in range((1 << 16) - size)])
    tokenizer = BytePairTokenizer(made)
    assert (tokenizer.vocab_size, tokenizer.ids_type.name) == (1 << 16, "uint16")
    assert int(tokenizer.encode(f"word{(1 << 16) - size - 1}")[-1]) == (1 << 16) - 1
    made.add_tokens(["xylophone"])
    tokenizer = BytePairTokenizer(made)
    assert (tokenizer.vocab_size, tokenizer.ids_type.name) == ((1 << 16) + 1, "uint32")
    ids = tokenizer.encode("a xylophone")
    assert int(ids[-1]) == 1 << 16
    assert tokenizer.token_bytes[ids].sum() == len("a xylophone")
    assert tokenizer.is_byte_level


def test_a_folder_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    made = _byte_level()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=END)
    fast.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode(TEXT).tolist() == fast(TEXT)["input_ids"]
    assert loaded.end_of_document == fast.eos_token_id
