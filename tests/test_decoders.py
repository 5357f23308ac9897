"""Text that is streamed through a tokenizer's decoder, against the library's decode of all ids."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from rinsc.data.tokenizer import BytePairTokenizer
from rinsc.text.decoders import TokenDecoder
from rinsc.text.streams import stream_text

TEXTS = ["the cat sat and and, don't! déjà 日本 🙂🙂 the the cat's hat . ?"] * 9
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def _trained(model: Any, trainer: Any, pre: Any, decoder: Any, normalizer: Any = None) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoder
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def byte_level() -> Tokenizer:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    pre = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return _trained(models.BPE(), trainer, pre, decoders.ByteLevel())


def metaspace_bpe() -> Tokenizer:
    trainer = trainers.BpeTrainer(vocab_size=80, special_tokens=["<s>"], show_progress=False)
    return _trained(models.BPE(), trainer, pre_tokenizers.Metaspace(), decoders.Metaspace())


def byte_fallback() -> Tokenizer:
    """As those of Llama 2: spaces that become ▁, a space in front, bytes for what is unknown."""
    tokens = ["<unk>", "<s>", *BYTES, *"▁thecasndo", "▁t", "an"]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [("▁", "t"), ("a", "n")]
    model = models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens(["<s>"])
    return tokenizer


def unigram() -> Tokenizer:
    pieces = [("<unk>", 0.0), *((byte, -9.0) for byte in BYTES)]
    pieces += [("▁the", -2.0), ("▁", -3.0), *((char, -5.0) for char in "theacsnd")]
    tokenizer = Tokenizer(models.Unigram(pieces, 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="first")]
    )
    return tokenizer


def word_piece() -> Tokenizer:
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=90, special_tokens=special, show_progress=False)
    model = models.WordPiece(unk_token="[UNK]")
    pre = pre_tokenizers.BertPreTokenizer()
    return _trained(model, trainer, pre, decoders.WordPiece(), normalizers.BertNormalizer())


def word_level() -> Tokenizer:
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    return _trained(models.WordLevel(unk_token="<unk>"), trainer, pre_tokenizers.Whitespace(), None)


def characters() -> Tokenizer:
    vocab = {char: i for i, char in enumerate(sorted(set(TEXTS[0])))}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def suffixes() -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=90, special_tokens=["<s>"], end_of_word_suffix="</w>", show_progress=False
    )
    model = models.BPE(end_of_word_suffix="</w>")
    return _trained(model, trainer, pre_tokenizers.Whitespace(), decoders.BPEDecoder())


def speech() -> Tokenizer:
    vocab = {token: i for i, token in enumerate(["<pad>", "|", *"thecasnd'."])}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="<pad>"))
    tokenizer.decoder = decoders.CTC()
    tokenizer.add_special_tokens(["<pad>"])
    return tokenizer


MAKERS: tuple[Callable[[], Tokenizer], ...] = (
    *(byte_level, metaspace_bpe, byte_fallback, unigram, word_piece),
    *(word_level, characters, suffixes, speech),
)
TOKENIZERS = {make.__name__: make() for make in MAKERS}


def streamed(tokenizer: Tokenizer, ids: Sequence[int], *, skip: bool) -> str:
    decoder = TokenDecoder(tokenizer, skip_special_tokens=skip)
    return "".join(map(decoder.push, ids)) + decoder.finish()


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=150)
@given(data=st.data(), skip=st.booleans())
def test_the_stream_is_the_decode_of_all_ids(name: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = TOKENIZERS[name]
    size = tokenizer.get_vocab_size()
    texts = st.text(st.sampled_from("the cansd,.'é日🙂 "), max_size=12)
    known = texts.map(lambda text: tokenizer.encode(text, add_special_tokens=False).ids)
    ids = data.draw(known if data.draw(st.booleans()) else st.lists(st.integers(0, size + 1)))
    assert streamed(tokenizer, ids, skip=skip) == tokenizer.decode(ids, skip_special_tokens=skip)


SOME_TOKENS = (
    *("▁a", "a", "▁", "##b", "b</w>", "</w>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>", "<0x41>"),
    *("<0xC3>", "<0xA9>", "<0xEF>", "<0xBF>", "<0xBD>", "Ġthe", "Ã", "©", "ð", "Ł", "ĺ", "Ģ"),
    *(" ", "  ", "|", "<pad>", ".", " n't", "n't", "ab", "b", "日", "\ufffd", "</", "w>"),
)
steps = st.one_of(
    st.builds(decoders.Metaspace, prepend_scheme=st.sampled_from(["always", "never", "first"])),
    st.sampled_from([decoders.ByteFallback(), decoders.Fuse(), decoders.ByteLevel()]),
    st.builds(decoders.WordPiece, cleanup=st.booleans()),
    st.just(decoders.BPEDecoder()),
    st.builds(decoders.CTC, cleanup=st.booleans()),
    # The library itself panics where two ends of a short token are cut off.
    st.builds(decoders.Strip, st.sampled_from(" a."), st.integers(0, 3), st.just(0)),
    st.builds(decoders.Replace, st.sampled_from(["▁", "a", "ab", "aa"]), st.sampled_from("x a")),
    st.builds(decoders.Replace, st.builds(Regex, st.sampled_from(["a+", "▁$"])), st.just("-")),
)


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(
    decoder=st.lists(steps, min_size=1, max_size=4).map(decoders.Sequence),
    ids=st.lists(st.integers(0, len(SOME_TOKENS))),
    skip=st.booleans(),
)
def test_any_chain_of_decoders(decoder: Any, ids: list[int], skip: bool) -> None:
    vocab = {token: i for i, token in enumerate(SOME_TOKENS)}
    tokenizer = Tokenizer(models.WordLevel(vocab, unk_token="a"))
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens(["<pad>"])
    assert streamed(tokenizer, ids, skip=skip) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_characters_of_the_end_that_are_stripped() -> None:
    tokenizer = characters()
    tokenizer.decoder = decoders.Sequence([decoders.Fuse(), decoders.Strip(" ", 0, 2)])
    ids = tokenizer.encode("the  cat   ").ids
    assert streamed(tokenizer, ids, skip=False) == tokenizer.decode(ids) == "the  cat "


@pytest.mark.parametrize("name", ["metaspace_bpe", "byte_fallback", "byte_level"])
def test_text_appears_while_it_is_made(name: str) -> None:
    """After each word all but its last token is there, and the held characters of an emoji not."""
    decoder = TokenDecoder(TOKENIZERS[name], skip_special_tokens=False)
    text, shown = "the cat sat and and the", ""
    ids = TOKENIZERS[name].encode(text).ids
    for count, token in enumerate(ids, start=1):
        shown += decoder.push(token)
        assert shown == TOKENIZERS[name].decode(ids[:count])


def test_every_way_to_name_a_decoder_is_exact() -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = byte_fallback()
    ids = tokenizer.encode("the 🙂🙂 cat").ids
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    for decode in (
        tokenizer.decode,
        partial(tokenizer.decode, skip_special_tokens=False),
        fast.decode,
        BytePairTokenizer(tokenizer).decode,
    ):
        assert "".join(stream_text(ids, decode)) == decode(ids) == "the 🙂🙂 cat"


def test_a_function_that_decodes_is_shown_a_few_ids_before() -> None:
    tokenizer = metaspace_bpe()
    ids = tokenizer.encode(TEXTS[0] * 3).ids
    assert "".join(stream_text(ids, lambda some: tokenizer.decode(some))) == tokenizer.decode(ids)


@pytest.mark.parametrize("name", TOKENIZERS)
@settings(max_examples=60)
@given(data=st.data())
def test_ids_after_a_prompt_add_to_its_text(name: str, data: st.DataObject) -> None:
    tokenizer = TOKENIZERS[name]
    texts = st.text(st.sampled_from("the cansd,.'é "), min_size=1, max_size=9)
    ids = tokenizer.encode(data.draw(texts), add_special_tokens=False).ids
    count = data.draw(st.integers(0, len(ids)))
    whole, before = tokenizer.decode(ids), tokenizer.decode(ids[:count])
    added = "".join(stream_text(ids[count:], tokenizer.decode, prompt=ids[:count]))
    if whole.startswith(before):
        assert before + added == whole


def test_a_space_between_prompt_and_text() -> None:
    for name in ("metaspace_bpe", "byte_fallback", "word_piece", "suffixes", "word_level"):
        tokenizer = TOKENIZERS[name]
        ids = tokenizer.encode("the cat sat and and", add_special_tokens=False).ids
        place = len(tokenizer.encode("the cat sat", add_special_tokens=False).ids)
        added = "".join(stream_text(ids[place:], tokenizer.decode, prompt=ids[:place]))
        assert added == " and and"


def test_stop_strings_across_tokens() -> None:
    for name in ("metaspace_bpe", "byte_fallback", "word_piece"):
        tokenizer = TOKENIZERS[name]
        ids = tokenizer.encode("the cat sat and and the", add_special_tokens=False).ids
        assert "".join(stream_text(ids, tokenizer.decode, " and and")) == "the cat sat"


@pytest.mark.parametrize("name", ["byte_level", "byte_fallback", "word_piece"])
def test_a_token_takes_as_long_after_many_others(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    ids = tokenizer.encode("the cat sat " * 5000, add_special_tokens=False).ids
    decoder = TokenDecoder(tokenizer, skip_special_tokens=False)
    seconds = []
    for part in range(4):
        start = time.process_time()
        for token in ids[part * 4000 : part * 4000 + 4000]:
            decoder.push(token)
        seconds.append(time.process_time() - start)
    assert seconds[3] < 5 * seconds[0] + 0.05  # decoding all again would take seven times as long
