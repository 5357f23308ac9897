"""Text as it is streamed against the decoding of all ids at once, cut at the first stop string."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rinsc.data.tokenizer import train_tokenizer
from rinsc.errors import UsageError
from rinsc.text.streams import TextStream, stream_text

WORDS = train_tokenizer(["the end; the END\n\n é ü 日本 🙂🙂 abcabd abcabd the the"], 266)


def as_bytes(ids: Sequence[int]) -> str:
    """A decoder whose ids are bytes."""
    return bytes(ids).decode("utf-8", errors="replace")


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the first stop string to be complete, the longest if several end there."""
    for end in range(len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)]
    return text


def streamed(ids: Sequence[int], decode: Any, stops: Sequence[str]) -> str:
    return "".join(stream_text(ids, decode, stops))


texts = st.text(st.sampled_from("ab\n é日🙂\ufffd"), max_size=12)
stop_strings = st.lists(st.text(st.sampled_from("ab\n é🙂\ufffd"), min_size=1), max_size=3)
characters = [list(character.encode()) for character in "aé日🙂\ufffd"]
# Whole characters, characters that are cut off, and bytes that are none.
some_bytes = st.lists(
    st.sampled_from([*characters, *[each[:-1] for each in characters], [0x80], [0xFF], [0xF0]]),
    max_size=20,
).map(lambda parts: [byte for part in parts for byte in part])


@given(ids=some_bytes, stops=stop_strings)
@example(ids=list("日é".encode())[:-1], stops=["\ufffd"])
def test_bytes_stream_as_they_decode(ids: list[int], stops: list[str]) -> None:
    assert streamed(ids, as_bytes, stops) == cut(as_bytes(ids), stops)


@given(ids=st.lists(st.integers(0, WORDS.vocab_size - 1), max_size=30), stops=stop_strings)
def test_tokens_stream_as_they_decode(ids: list[int], stops: list[str]) -> None:
    assert streamed(ids, WORDS.decode, stops) == cut(WORDS.decode(ids), stops)


@given(text=texts, stops=stop_strings)
def test_texts_come_back(text: str, stops: list[str]) -> None:
    ids = WORDS.encode(text).tolist()
    assert streamed(ids, WORDS.decode, stops) == cut(text, stops)


@given(ids=some_bytes, stops=stop_strings)
def test_nothing_is_held_back_without_reason(ids: list[int], stops: list[str]) -> None:
    """What is held is the beginning of a stop string, or bytes that may become a character."""
    stream, shown = TextStream(as_bytes, stops), ""
    for place, token in enumerate(ids, start=1):
        shown += stream.push(token)
        if stream.ended:
            return
        text = as_bytes(ids[:place])
        certain = text.removesuffix("\ufffd")
        held = certain[len(shown) :]
        assert certain.startswith(shown)
        assert not held or any(stop.startswith(held) and stop != held for stop in stops)


def test_endless_bytes_that_are_no_character_are_shown_and_not_kept() -> None:
    stream = TextStream(as_bytes)
    ids = [0xF0] * 301 + list("日".encode()) + [0x80] * 202 + list("🙂".encode())
    longest = 0
    shown = ""
    for token in ids:
        shown += stream.push(token)
        longest = max(longest, len(stream._decoder._ids))  # type: ignore[union-attr]
    assert shown + stream.finish() == as_bytes(ids)
    assert longest <= 70


def test_no_id_is_taken_after_the_end() -> None:
    taken: list[int] = []

    def ids() -> Iterator[int]:
        for byte in b"one END two":
            taken.append(byte)
            yield byte

    assert streamed(ids(), as_bytes, ["END"]) == "one "  # type: ignore[arg-type]
    assert bytes(taken) == b"one END"


def test_one_stop_string_may_stand_alone() -> None:
    assert "".join(stream_text(b"a END b", as_bytes, "END")) == "a "


def test_after_its_end_a_stream_gives_nothing() -> None:
    stream = TextStream(as_bytes, ["b"])
    assert [stream.push(byte) for byte in b"abc"] == ["a", "", ""]
    assert stream.ended
    assert stream.finish() == ""


def test_sabotage_half_a_character_is_seen() -> None:
    ids = list("é".encode())
    assert "".join(as_bytes([byte]) for byte in ids) != cut(as_bytes(ids), [])


@pytest.mark.parametrize("stop", ["", [""], ["END", ""], [b"END"], [None]])
def test_stop_strings_that_are_none(stop: Any) -> None:
    with pytest.raises(UsageError, match="bad-stop"):
        stream_text([], as_bytes, stop)
