"""A stream of token ids as a stream of text that is never taken back, and that strings can end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

from rinsc.errors import Problem, UsageError

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a decoder shows for bytes that are no character
MAX_PENDING_IDS = 64  # of bytes that never become a character
KEPT_IDS = 8  # one of the last 3 bytes may begin a character

# What ends a document, where a vocabulary holds one of them as a special token.
ENDS_OF_DOCUMENT = (
    *("<|endoftext|>", "<|end_of_text|>", "<\uff5cend\u2581of\u2581sentence\uff5c>"),
    *("<eos>", "</s>", "[SEP]"),
)
PADDING = ("<pad>", "<|pad|>", "[PAD]", "<|padding|>")  # special tokens that fill a batch


class TextStream:
    """The text of ids that come one by one.

    ``decode`` maps ids to text, U+FFFD for bytes that are no character, as byte-level tokenizers
    do: each id stands for at least one byte. The text ends before the first of the strings
    ``stop``: the one that is complete first, and of several that end together the longest. What
    may yet become another character or a stop string is held back. Raises `UsageError` for an
    empty stop string.
    """

    def __init__(
        self, decode: Callable[[Sequence[int]], str], stop: str | Sequence[str] = ()
    ) -> None:
        self._decode = decode
        self._stop = checked_stop(stop)
        self._ids: list[int] = []
        self._decoded = 0  # characters of these ids that have been given on
        self._held = ""
        self.ended = False

    def push(self, token: int) -> str:
        """The text that is certain with one id more; none once the text has ended."""
        return "" if self.ended else self._until_stop(self._characters(token))

    def finish(self) -> str:
        """What was held back, after the last id."""
        if self.ended:
            return ""
        shown = self._until_stop(self._decode(self._ids)[self._decoded :] if self._ids else "")
        rest = "" if self.ended else self._held
        self.ended = True
        return shown + rest

    def _characters(self, token: int) -> str:
        """The characters that are complete with one id more."""
        self._ids.append(token)
        text = self._decode(self._ids)
        whole = text.removesuffix(REPLACEMENT)
        new = whole[self._decoded :]
        self._decoded = len(whole)
        if whole == text:
            self._ids, self._decoded = [], 0
        elif len(self._ids) > MAX_PENDING_IDS:
            self._ids = self._ids[-KEPT_IDS:]
            self._decoded = len(self._decode(self._ids)) - 1
        return new

    def _until_stop(self, new: str) -> str:
        """What can be shown of the text held back and ``new``."""
        text = self._held + new
        found = [(text.find(stop) + len(stop), -len(stop)) for stop in self._stop if stop in text]
        if found:
            end, negative_length = min(found)
            self.ended = True
            return text[: end + negative_length]
        held = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def stream_text(
    ids: Iterable[int],
    decode: Callable[[Sequence[int]], str],
    stop: str | Sequence[str] = (),
) -> Iterator[str]:
    """The text of ``ids`` in pieces, as `TextStream` gives it; no id is taken after its end."""
    stream = TextStream(decode, stop)

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
    if not all(isinstance(each, str) and each for each in strings):
        hint = "give at least one character, or leave it out"
        raise UsageError(Problem("bad-stop", "a stop string is empty or no text", hint=hint))
    return strings


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of ``text`` may begin ``stop``, but are not all of it."""
    longest = min(len(text), len(stop) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(stop[:size])), 0)
