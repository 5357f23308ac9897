"""The tokenizer: lossless on any text, deterministic, and of exactly the size asked for."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from rinsc.data import pieces
from rinsc.data import pieces as learning
from rinsc.data.documents import Corpus
from rinsc.data.tokenizer import (
    BytePairTokenizer,
    check_vocabulary,
    load_tokenizer,
    train_tokenizer,
)
from rinsc.errors import DataError
from rinsc.text.panics import quiet
from rinsc.text.streams import stream_text
from tests.test_decoders import TOKENIZERS


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


def test_too_little_text_for_the_vocabulary_gives_fewer_tokens() -> None:
    small = train_tokenizer(["a few words only, a few words"], 4096)
    assert small.vocab_size < 300
    check_vocabulary(small, 4096)


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


KINDS_OF_TEXT = {
    "one giant word": "".join(random.Random(1).choices("abcdefghijklmnop", k=4 << 20)),
    "words that are all new": "".join(random.Random(2).choices("abcdefghijklmno ", k=4 << 20)),
    "NULs": "ab ab\n" + "\0" * (4 << 20),
    "one letter, and an emoji": "a" * (4 << 20) + "\U0001f642",
    "marks, and an emoji": "".join(random.Random(3).choices("ab*_ \\\U0001f642", k=1 << 17)) * 24,
}
FORMS = [(kind, "text:text.txt") for kind in KINDS_OF_TEXT]
FORMS += [("marks, and an emoji", form) for form in ("text:text.md", "jsonl:text.jsonl")]
FORMS += [("one giant word", "parquet:text.parquet"), ("one giant word", "hf:hub/train.parquet")]
FORMS += [(kind, "hf:hub/train.jsonl") for kind in ("one giant word", "marks, and an emoji")]
FORMS += [("marks, and an emoji", "hf:hub/train.json")]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="nothing tells the memory")
@pytest.mark.parametrize(("kind", "name"), FORMS)
def test_learning_and_reading_take_little_memory(kind: str, name: str, tmp_path: Path) -> None:
    """At most 6 bytes for each byte of text, and what the libraries take for any text."""
    text = KINDS_OF_TEXT[kind]
    measured = []
    for size in (len(text) // 5, len(text)):
        form, _, file = name.partition(":")
        path = tmp_path / str(size) / file
        path.parent.mkdir(parents=True)
        content = text[:size]
        # One giant row, and some to hold out.
        rows = [content, *(content[n * 1000 : (n + 1) * 1000] for n in range(40))]
        if path.suffix == ".parquet" or form == "hf":
            rows[0] *= 3  # what libraries take for any file is more than they take for a small one
        if path.suffix == ".jsonl":
            content = "".join(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows)
        if path.suffix == ".json":
            content = json.dumps([{"text": row} for row in rows], ensure_ascii=False)
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.table({"text": rows}), path)
        else:
            path.write_text(content)
        name_of_text = f"{form}:{path.parent if form == 'hf' else path}"
        peaks: list[int] = []
        # What a peak has beyond the least is of the allocator's threads: until two agree.
        while len(peaks) < 2 or (len(peaks) < 5 and sorted(peaks)[1] - min(peaks) > 1 << 20):
            arguments = [name_of_text, str(tmp_path / f"{size}-{len(peaks)}")]
            command = [sys.executable, "-c", MEASURED, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks.append(int(done.stdout))
        measured.append((path.stat().st_size, min(peaks)))
    (small, least), (large, most) = measured
    assert (most - least) / (large - small) < 6, measured
    assert most - least < 64 << 20


# What `resource` tells begins with the memory of the process that starts this one.
MEASURED = """
import sys
from pathlib import Path
from typing import Any
from rinsc.data.cache import prepare
from rinsc.data.corpora import open_corpus, training_texts
from rinsc.data.tokenizer import train_tokenizer

source = open_corpus(sys.argv[1])
tokenizer = train_tokenizer(training_texts(source, 50_000_000), 259)
prepare(source, tokenizer, folder=Path(sys.argv[2]))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(int(status["VmHWM"].split()[0]) * 1024)
"""


@pytest.mark.parametrize("kind", KINDS_OF_TEXT)
def test_the_work_grows_with_the_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bytes that are handed to the library, again and again at cuts: linear in the text."""
    tokenizer = train_tokenizer(["ab ab cd\n" * 50], 259)
    handed = 0
    encode = BytePairTokenizer._encoded

    def counted(self: BytePairTokenizer, texts: list[str], **options: bool) -> list[Any]:
        nonlocal handed
        handed += sum(map(len, texts))
        return encode(self, texts, **options)

    monkeypatch.setattr(BytePairTokenizer, "_encoded", counted)
    work = []
    for size in (200_000, 800_000):
        handed = 0
        tokenizer.encode(KINDS_OF_TEXT[kind][:size])
        work.append(handed / size)
    assert max(work) < 6
    assert work[1] < 1.2 * work[0]


@pytest.mark.parametrize("kind", KINDS_OF_TEXT)
def test_the_work_of_learning_grows_with_the_text(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the trainer counts, and what it merges: each distinct word once, by its length.

    A word costs more than its length where it is long, so there is none of those.
    """
    handed = 0
    words: set[str] = set()
    cut = pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str

    def counted(texts: Iterable[str]) -> Iterator[str]:
        nonlocal handed
        for text in learning.learned_texts(texts):
            handed += len(text)
            words.update(word for word, _ in cut(text))
            yield text

    monkeypatch.setattr("rinsc.data.tokenizer.learned_texts", counted)
    work = []
    for size in (200_000, 800_000):
        handed = 0
        words.clear()
        text = KINDS_OF_TEXT[kind][:size]
        train_tokenizer((text[at : at + 50_000] for at in range(0, size, 50_000)), 259)
        assert handed <= size
        assert max(map(len, words)) <= 4 * learning.MAX_WORD_CHARS  # as bytes
        work.append((handed + sum(map(len, words))) / size)
    assert max(work) < 6
    assert work[1] < 1.2 * work[0]


def test_a_learned_tokenizer_has_a_token_for_the_end_of_a_text(trained: BytePairTokenizer) -> None:
    assert trained.end_of_document == 0
    assert trained.stop_ids == (0,)
    assert trained.decode([0]) == "<|endoftext|>"
    assert trained.decode([0], skip_special_tokens=True) == ""
    texts = ["the king, the queen and the thing\n" * 40]
    assert train_tokenizer(texts, 270, end_of_text=None).end_of_document is None
    assert train_tokenizer(texts, 256).end_of_document is None  # there is room for bytes alone
    other = train_tokenizer(texts, 270, end_of_text="[EOS]")
    assert other.backend_tokenizer.token_to_id("[EOS]") == 0


def test_ordinary_text_is_learned_from_as_a_whole(plays: Corpus) -> None:
    """The tokens are those of the library's own trainer on the whole text."""
    texts = [document.text for document in plays.train[:6]]
    library = tokenizers.Tokenizer(tokenizers.models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=500,
        min_frequency=2,
        show_progress=False,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    library.train_from_iterator([line for text in texts for line in text.splitlines(True)], trainer)
    assert train_tokenizer(texts, 500).backend_tokenizer.get_vocab() == library.get_vocab()


PIECED = (
    "\n ab",
    "'s",
    "don't ",
    "12345",
    "aaaa",
    "é",
    "e\u0301",
    "日本",
    "🙂",
    " \n\n ",
    "\0",
    "<s>",
)


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "unigram", "word_piece"])
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.sampled_from(PIECED), min_size=1), times=st.integers(20, 60))
def test_pieces_are_encoded_as_the_whole_text(
    name: str, parts: list[str], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = BytePairTokenizer(TOKENIZERS[name])
    text = "".join(parts) * times
    expected = TOKENIZERS[name].encode(text, add_special_tokens=False).ids
    with monkeypatch.context() as small:
        small.setattr(pieces, "PIECE_BYTES", 300)
        small.setattr(pieces, "CONTEXT_BYTES", 120)
        small.setattr(pieces, "GROUP_BYTES", 900)
        ids, counts = tokenizer.encode_counted(text)
        assert tokenizer.encode(text).tolist() == ids.tolist() == expected
    assert counts.sum() == (len(text.encode()) if expected else 0)


def test_a_giant_word_whose_tokens_cross_characters() -> None:
    """A cut may not split a character, and here few tokens end with one."""
    letters = [chr(code) for code in range(0x4E00, 0x9FA5)]
    text = "".join(random.Random(2).choices(letters, k=66_666))
    tokenizer = train_tokenizer([text], 1000)
    library = tokenizer.backend_tokenizer
    whole = library.encode(text, add_special_tokens=False).ids
    assert tokenizer.encode(text).tolist() == whole


def test_tokens_that_cross_characters_are_cut_without_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """In text without a space tokens end inside characters, where no piece may."""
    draw = random.Random(1)
    text = "".join(map(chr, draw.choices(range(0x4E00, 0x9FA5), k=20_000)))
    tokenizer = train_tokenizer([text], 300)
    expected = tokenizer.backend_tokenizer.encode(text).ids
    monkeypatch.setattr(pieces, "PIECE_BYTES", 700)
    monkeypatch.setattr(pieces, "CONTEXT_BYTES", 120)
    ids = tokenizer.encode(text)
    tokenizer.require_lossless(ids, text)
    assert ids.tolist() == expected


def _with(tokenizer: BytePairTokenizer, part: str, **values: object) -> str:
    """A tokenizer.json of which one part has other values."""
    content = json.loads(tokenizer.to_json())
    content[part] = {**(content[part] or {}), **values}
    return json.dumps(content)


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("model", {"vocab": {"a": 0, "b": 4_000_000_000}, "merges": []}),
        ("model", {"vocab": {"a": float("inf")}, "merges": []}),
        ("model", {"continuing_subword_prefix": "#" * 2000}),  # the library panics
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}),  # here, too
        (
            "normalizer",
            {
                "type": "Sequence",
                "normalizers": [
                    {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
                ]
                * 4,
            },
        ),
        ("decoder", {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}),
    ],
)
def test_files_that_take_memory_or_stop_the_library_are_refused(
    tmp_path: Path, tokenizer: BytePairTokenizer, part: str, values: dict[str, object]
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(_with(tokenizer, part, **values))
    with pytest.raises(DataError, match="not a tokenizer file: "):
        load_tokenizer(path)


def test_panics_of_the_library_are_errors(
    tmp_path: Path, tokenizer: BytePairTokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(_with(tokenizer, "model", continuing_subword_prefix="#" * 2000))
    with pytest.raises(DataError, match="not a tokenizer file: "):
        load_tokenizer(path)
    path.write_text(_with(tokenizer, "pre_tokenizer", type="FixedLength", length=0))
    with pytest.raises(DataError, match="cannot encode the text"):
        load_tokenizer(path).encode("a text")
    path.write_text(_with(tokenizer, "decoder", type="Strip", content="a", start=0, stop=99))
    loaded = load_tokenizer(path)
    (letter,) = loaded.encode("a").tolist()
    with pytest.raises(DataError, match="cannot decode"):
        loaded.decode([letter])
    with pytest.raises(DataError, match="cannot decode"):
        list(stream_text([letter], loaded.decode))
    assert capfd.readouterr().err == ""


def test_what_others_print_meanwhile_is_passed_on(
    tmp_path: Path, tokenizer: BytePairTokenizer, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tokenizer.json"
    path.write_text(_with(tokenizer, "pre_tokenizer", type="FixedLength", length=0))
    failing = load_tokenizer(path)
    with quiet():
        os.write(2, b"one\n")
        with pytest.raises(DataError):
            failing.encode("a text")
        os.write(2, b"two\n")
    os.write(2, b"three\n")
    assert capfd.readouterr().err == "one\ntwo\nthree\n"


def test_half_a_character_of_utf16_is_no_text(trained: BytePairTokenizer) -> None:
    with pytest.raises(DataError, match="half a character"):
        trained.encode("a\ud800")
