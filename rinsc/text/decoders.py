"""The decoders of the library tokenizers, token by token: the same text as all ids at once.

A tokenizer turns ids into tokens and hands them to its decoder, which is a chain of steps such as
``Replace``, ``ByteFallback``, ``Fuse``, ``Strip``. Decoding the ids one by one gives another text
than decoding all of them, because a step may treat the first token, the last one, a repeated one
or a run of them differently, and steps after ``Fuse`` see the whole text as one token. So each
step becomes a `Stage` that holds back what a later token can still change::

    ids        ▁the  ▁c   at   <0xC3>  <0xA9>  ▁x
    Metaspace  the   ' c' at   <0xC3>  <0xA9>  ' x'     the first token loses its space
    Fallback   the   ' c' at   -       -       'é', ' x'  a run of bytes is held until it ends

What a stage gives is computed by the library's own decoder; only what it has to wait for is said
here.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from rinsc.storage.files import parse_json
from rinsc.text.panics import library_failures

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"  # what a decoder shows for bytes that are no character
CANNOT_DECODE = "the tokenizer cannot decode its ids"


class TokenDecoder:
    """The text of ids that come one by one, as ``backend.decode`` gives it for all of them.

    ``backend`` is a `tokenizers.Tokenizer`. A token takes the same time wherever it stands. Raises
    DataError where the library cannot decode a token.
    """

    def __init__(self, backend: Any, *, skip_special_tokens: bool) -> None:
        self._token_of = backend.id_to_token
        self._skipped: set[str] = set()
        if skip_special_tokens:
            added = backend.get_added_tokens_decoder().values()
            self._skipped = {token.content for token in added if token.special}
        self._stages = _stages(backend)

    def push(self, token: int) -> str:
        """The text that is certain with one id more; an id that is no token adds none."""
        text = self._token_of(token)
        if text is None or text in self._skipped:
            return ""
        with library_failures(CANNOT_DECODE):
            return "".join(_through(self._stages, [text]))

    def finish(self) -> str:
        """What was held back, after the last id."""
        pieces: list[str] = []
        with library_failures(CANNOT_DECODE):
            for number, stage in enumerate(self._stages):
                pieces += _through(self._stages[number + 1 :], stage.finish())
        return "".join(pieces)


def token_decoder(decode: object) -> TokenDecoder | None:
    """The decoder behind a bound ``decode`` of a tokenizer; None for any other function.

    Known are the methods of `tokenizers.Tokenizer`, of our own tokenizers and of the fast ones of
    transformers, with ``skip_special_tokens`` bound by `functools.partial` or left as it is.
    """
    bound, options = decode, {}
    if isinstance(decode, partial):
        if decode.args or decode.keywords.keys() - {"skip_special_tokens"}:
            return None
        bound, options = decode.func, decode.keywords
    owner = getattr(bound, "__self__", None)
    if owner is None or getattr(bound, "__name__", None) != "decode":
        return None
    backend, skips = _backend(owner)
    if backend is None:
        return None
    skips = bool(options.get("skip_special_tokens", skips))
    return TokenDecoder(backend, skip_special_tokens=skips)


def _backend(owner: Any) -> tuple[Any, bool]:
    """The library's tokenizer in an object, and whether its ``decode`` skips special tokens."""
    if _is_tokenizer(owner):
        return owner, True
    inner = getattr(owner, "backend_tokenizer", None)
    cleans = getattr(owner, "clean_up_tokenization_spaces", False)  # transformers, after decoding
    if _is_tokenizer(inner) and not cleans:
        return inner, False
    return None, False


def _is_tokenizer(owner: object) -> bool:
    kind = type(owner)
    return kind.__module__.partition(".")[0] == "tokenizers" and kind.__name__ == "Tokenizer"


class Stage(Protocol):
    """One step of a decoder: tokens in, tokens out; after `Fuse`, pieces of the one token."""

    def push(self, token: str) -> list[str]: ...

    def finish(self) -> list[str]: ...


class _Each:
    """Each token by itself; all but the first behind another one where the first ``differs``."""

    def __init__(self, decoder: Any, *, first_differs: bool = False) -> None:
        self._decode = decoder.decode
        self._first_differs = first_differs
        self._is_first = True

    def push(self, token: str) -> list[str]:
        follows = self._first_differs and not self._is_first
        self._is_first = False
        return [self._decode(["", token] if follows else [token])]

    def finish(self) -> list[str]:
        return []


class _SpaceBetween:
    """Without a decoder the library puts a space between tokens."""

    def __init__(self) -> None:
        self._is_first = True

    def push(self, token: str) -> list[str]:
        shown = token if self._is_first else f" {token}"
        self._is_first = False
        return [shown]

    def finish(self) -> list[str]:
        return []


class _LastDiffers:
    """The last token loses its suffix, the others get a space for it (``BPEDecoder``)."""

    def __init__(self, decoder: Any) -> None:
        self._decode = decoder.decode
        self._held: str | None = None

    def push(self, token: str) -> list[str]:
        held, self._held = self._held, token
        return [] if held is None else [self._decode([held, ""])]

    def finish(self) -> list[str]:
        return [] if self._held is None else [self._decode([self._held])]


class _Distinct:
    """Repeated tokens count once, and what is empty is no token (``CTC``)."""

    def __init__(self, decoder: Any) -> None:
        self._decode = decoder.decode
        self._before: str | None = None

    def push(self, token: str) -> list[str]:
        if token == self._before:
            return []
        self._before = token
        text = self._decode([token])
        return [text] if text else []

    def finish(self) -> list[str]:
        return []


class _ByteRuns:
    """A run of byte tokens is characters if all of it is, else one U+FFFD for each byte."""

    def __init__(self, decoder: Any) -> None:
        self._decode = decoder.decode
        self._run: list[str] = []

    def push(self, token: str) -> list[str]:
        if self._decode([token]) != token:
            self._run.append(token)
            return []
        return [*self.finish(), token]

    def finish(self) -> list[str]:
        run, self._run = self._run, []
        if not run:
            return []
        text = self._decode(run)
        return list(text) if text == REPLACEMENT * len(run) else [text]


class _Bytes:
    """Byte-level tokens, whose bytes in a row are UTF-8; it makes one token of all."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, token: str) -> list[str]:
        return [self._decode(byte_level_bytes(token))]

    def finish(self) -> list[str]:
        return [self._decode(b"", True)]


class _Pieces:
    """Every piece of the one token as it is, or through a decoder that looks at no neighbour."""

    def __init__(self, decoder: Any = None) -> None:
        self._decode = None if decoder is None else decoder.decode

    def push(self, piece: str) -> list[str]:
        return [piece if self._decode is None else self._decode([piece])]

    def finish(self) -> list[str]:
        return []


class _ReplacedText:
    """A text replaced in the one token; what may begin it is held back."""

    def __init__(self, pattern: str, content: str) -> None:
        self._pattern, self._content = pattern, content
        self._held = ""

    def push(self, piece: str) -> list[str]:
        *whole, rest = (self._held + piece).split(self._pattern)
        held = overlap(rest, self._pattern)
        self._held = rest[len(rest) - held :]
        return [self._content.join([*whole, rest[: len(rest) - held]])]

    def finish(self) -> list[str]:
        return [self._held]


class _StrippedText:
    """A character taken off the ends of the one token, so often at most."""

    def __init__(self, character: str, start: int, stop: int) -> None:
        self._character, self._start, self._stop = character, start, stop
        self._held = ""

    def push(self, piece: str) -> list[str]:
        while self._start and piece:
            if piece[0] != self._character:
                self._start = 0
                break
            piece, self._start = piece[1:], self._start - 1
        text = self._held + piece
        end = len(text) - len(text.rstrip(self._character))
        held = min(end, self._stop)
        self._held = text[len(text) - held :]
        return [text[: len(text) - held]]

    def finish(self) -> list[str]:
        return []


class _Whole:
    """All of it at the end, where anything may change until then."""

    def __init__(self, decoder: Any, *, fused: bool) -> None:
        self._decode, self._fused = decoder.decode, fused
        self._tokens: list[str] = []

    def push(self, token: str) -> list[str]:
        self._tokens.append(token)
        return []

    def finish(self) -> list[str]:
        if not self._tokens:
            return []
        return [self._decode(["".join(self._tokens)] if self._fused else self._tokens)]


def _stages(backend: Any) -> list[Stage]:
    """One stage for each step of the tokenizer's decoder."""
    decoder = backend.decoder
    if decoder is None:
        return [_SpaceBetween()]
    stages: list[Stage] = []
    fused = False
    try:
        steps = list(_steps(parse_json(decoder.__getstate__())))
    except Exception:  # a decoder written in Python has no state
        return [_Whole(decoder, fused=False)]
    for step in steps:
        stage = _stage(step, partial(_library_decoder, backend, step), fused=fused)
        if stage is None:
            return [_Whole(decoder, fused=False)]
        stages.append(stage)
        fused = fused or step["type"] in ("Fuse", "ByteLevel")
    return stages


def _steps(state: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    if state["type"] == "Sequence":
        for step in state["decoders"]:
            yield from _steps(step)
    else:
        yield state


def _stage(step: Mapping[str, Any], library: Any, *, fused: bool) -> Stage | None:
    """The stage of one step; None for a step that is not known here."""
    match step["type"], fused:
        case "Fuse", _:
            return _Pieces()
        case (("Replace" | "Strip"), False):
            return _Each(library())
        case (("Metaspace" | "WordPiece"), False):
            return _Each(library(), first_differs=True)
        case "BPEDecoder", False:
            return _LastDiffers(library())
        case "CTC", False:
            return _Distinct(library())
        case "ByteFallback", False:
            return _ByteRuns(library())
        case "ByteLevel", False:
            return _Bytes()
        case "Replace", True:
            pattern = step["pattern"].get("String")
            return (
                _ReplacedText(pattern, step["content"])
                if pattern
                else _Whole(library(), fused=True)
            )
        case "Strip", True:
            return _StrippedText(step["content"], step["start"], step["stop"])
        case "Metaspace", True:
            return _Pieces(library())  # all of it is the first token: every character by itself
        case "WordPiece", True if not step["cleanup"]:
            return _Pieces()
        case "BPEDecoder", True if step["suffix"]:
            return _ReplacedText(step["suffix"], "")
        case (("WordPiece" | "BPEDecoder" | "CTC" | "ByteFallback" | "ByteLevel"), True):
            return _Whole(library(), fused=True)
    return None


def _library_decoder(backend: Any, step: Mapping[str, Any]) -> Any:
    """The library's own decoder for one step."""
    model = {"type": "BPE", "vocab": {}, "merges": []}
    text = json.dumps({"version": "1.0", "model": model, "decoder": step})
    return type(backend).from_str(text).decoder


def _through(stages: Iterable[Stage], tokens: list[str]) -> list[str]:
    for stage in stages:
        tokens = [output for token in tokens for output in stage.push(token)]
    return tokens


def overlap(text: str, pattern: str) -> int:
    """How many characters at the end of ``text`` may begin ``pattern``, but are not all of it."""
    longest = min(len(text), len(pattern) - 1)
    return next((size for size in range(longest, 0, -1) if text.endswith(pattern[:size])), 0)


def byte_level_bytes(token: str) -> bytes:
    """The bytes that a token of the byte-level alphabet stands for; of any other its UTF-8."""
    try:
        return bytes(map(_BYTE_OF.__getitem__, token))
    except KeyError:
        return token.encode("utf-8")


def _alphabet() -> dict[str, int]:
    """The byte of each character of the byte-level alphabet that GPT-2's vocabulary began.

    Printable characters of Latin-1 stand for themselves, the other bytes for those from U+0100 on.
    """
    shown = re.sub(r"[\x00- \x7f-\xa0\xad]", "", "".join(map(chr, range(256))))
    hidden = [byte for byte in range(256) if chr(byte) not in shown]
    return {char: ord(char) for char in shown} | {
        chr(256 + index): byte for index, byte in enumerate(hidden)
    }


_BYTE_OF = _alphabet()
