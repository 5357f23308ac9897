"""A stream of token ids as a stream of text that is never taken back, and that strings can end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from rinsc.errors import UsageError
from rinsc.text.decoders import REPLACEMENT, overlap, token_decoder

MAX_PENDING_IDS = 64  # of bytes that never become a character
KEPT_IDS = 8  # one of the last 3 bytes may begin a character


class TextStream:
    """The text of ids that come one by one.

    ``decode`` maps ids to text. Pass the ``decode`` of a tokenizer, of ours, of the library
    tokenizers or of transformers: the text is then exactly that of all ids at once, whatever the
    tokenizer's decoder does. Of any other function each id must stand for at least one byte and
    U+FFFD for bytes that are no character, as in byte-level tokenizers.

    The text ends before the first of the strings ``stop``: the one that is complete first, and of
    several that end together the longest. What may yet become another character or a stop string
    is held back. Raises `UsageError` for an empty stop string.

    The ids may follow those of a ``prompt``: many decoders drop the space of the first token, which
    is then the prompt's. The text is what they add to that of the prompt.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        stop: str | Sequence[str] = (),
        prompt: Sequence[int] = (),
    ) -> None:
        self._decoder = token_decoder(decode) or _FunctionDecoder(decode)
        self._stop = checked_stop(stop)
        shown = "".join([self._decoder.push(int(token)) for token in prompt])
        text = decode(list(map(int, prompt))) if len(prompt) else ""
        self._left_out = len(text) - len(
            shown
        )  # characters that only the prompt's end made certain
        self._held = ""
        self.ended = False

    def push(self, token: int) -> str:
        """The text that is certain with one id more; none once the text has ended."""
        return "" if self.ended else self._until_stop(self._new(self._decoder.push(token)))

    def finish(self) -> str:
        """What was held back, after the last id."""
        if self.ended:
            return ""
        shown = self._until_stop(self._new(self._decoder.finish()))
        rest = "" if self.ended else self._held
        self.ended = True
        return shown + rest

    def _new(self, text: str) -> str:
        """The part of ``text`` that is not the prompt's."""
        left_out = min(max(0, self._left_out), len(text))
        self._left_out -= left_out
        return text[left_out:]

    def _until_stop(self, new: str) -> str:
        """What can be shown of the text held back and ``new``."""
        text = self._held + new
        ends = [(text.find(stop) + len(stop), -len(stop)) for stop in self._stop if stop in text]
        if ends:
            end, negative_length = min(ends)
            self.ended = True
            return text[: end + negative_length]
        held = max((overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


class _FunctionDecoder:
    """The text of any function of ids: what a further id adds to the text of those before it.

    A few ids that have been shown stay in front, as a decoder may treat the first one otherwise.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._ids: list[int] = []
        self._decoded = 0  # characters of these ids that have been given on

    def push(self, token: int) -> str:
        self._ids.append(token)
        text = self._decode(self._ids)
        whole = text.removesuffix(REPLACEMENT)
        new = whole[self._decoded :]
        self._decoded = max(self._decoded, len(whole))
        is_whole = whole == text
        if len(self._ids) > (2 * KEPT_IDS if is_whole else MAX_PENDING_IDS):
            self._ids = self._ids[-KEPT_IDS:]
            self._decoded = len(self._decode(self._ids)) - (not is_whole)
        return new

    def finish(self) -> str:
        return self._decode(self._ids)[self._decoded :] if self._ids else ""


def stream_text(
    ids: Iterable[int],
    decode: Callable[[Sequence[int]], str],
    stop: str | Sequence[str] = (),
    prompt: Sequence[int] = (),
) -> Iterator[str]:
    """The text of ``ids`` in pieces, as `TextStream` gives it; no id is taken after its end."""
    stream = TextStream(decode, stop, prompt)

    def pieces() -> Iterator[str]:
        for token in ids:
            if piece := stream.push(token):
                yield piece
            if stream.ended:
                return
        if piece := stream.finish():
            yield piece

    return pieces()


def checked_stop(stop: str | Sequence[str]) -> tuple[str, ...]:
    """The stop strings, one or several; raises `UsageError` for an empty one."""
    strings = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(item, str) and item for item in strings):
        hint = "give at least one character, or leave it out"
        raise UsageError("bad-stop", "a stop string is empty or no text", hint=hint)
    return strings
