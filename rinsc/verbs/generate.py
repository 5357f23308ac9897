"""`rinsc.generate`: texts continued by a run, a saved model, an ONNX model or a module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.errors import UsageError, plural, require_type, setting
from rinsc.extras import require
from rinsc.progress import Progress, ShownProgress
from rinsc.sampling import Sampling
from rinsc.verbs.chat import render_chats
from rinsc.verbs.text_models import TextModel, open_text_model

if TYPE_CHECKING:
    from rinsc.generation import Request
    from rinsc.graph import Rounds
    from rinsc.text.streams import TextStream


class Generation:
    """Texts that a model is making: iterate to have them piece by piece, or read them whole.

    >>> for piece in rinsc.generate("runs/demo", "On day"):  # doctest: +SKIP
    ...     print(piece, end="")
    """

    def __init__(
        self,
        prompts: tuple[str, ...],
        streams: Sequence[TextStream],
        steps: Iterator[Sequence[int | None]],
        model: TextModel,
        notes: Callable[[], None],
    ) -> None:
        self.prompts = prompts
        self.drafts = model.drafts  # what came of them so far; None where none were asked for
        self._texts = ["" for _ in prompts]
        self._model = model
        self._pieces = self._run(streams, steps, notes)

    def _run(
        self,
        streams: Sequence[TextStream],
        steps: Iterator[Sequence[int | None]],
        notes: Callable[[], None],
    ) -> Iterator[list[str]]:
        """What each step adds to each text, until all texts have ended."""
        for index, added in enumerate(_added(steps, streams)):
            if index == 0:  # most of what can fail has then failed, with nothing said
                notes()
            self._texts = [text + piece for text, piece in zip(self._texts, added, strict=True)]
            yield added

    def pieces(self) -> Iterator[list[str]]:
        """What each step adds, one text a prompt."""
        return self._pieces

    def __iter__(self) -> Iterator[str]:
        """What each step adds to the text of the one prompt; raises `UsageError` for several."""
        if len(self.prompts) != 1:
            message = f"these are the texts of {len(self.prompts)} prompts"
            raise UsageError("usage", message, hint="iterate over pieces(), or read texts")
        return (piece for (piece,) in self._pieces)

    @property
    def texts(self) -> tuple[str, ...]:
        """What was added to each prompt, once all of it is made."""
        for _ in self._pieces:
            pass
        return tuple(self._texts)

    @property
    def text(self) -> str:
        """What was added to the prompt; of several prompts, all of it below each other."""
        return "\n\n".join(self.texts)

    @property
    def rounds_used(self) -> Mapping[str, int]:
        """Of repeats that may end early, the rounds that the last token took."""
        return self._model.rounds_used()

    def __str__(self) -> str:
        pairs = zip(self.prompts, self.texts, strict=True)
        return "\n\n".join(prompt + text for prompt, text in pairs)

    def __repr__(self) -> str:
        so_far = f"{self._texts[0][:40]!r} …" if self._texts[0] else "read .text, or iterate"
        return f"<Generation of {plural(len(self.prompts), 'text')}: {so_far}>"


def generate(
    model: object,
    prompts: str | Sequence[str],
    *,
    max_new_tokens: int = 100,
    rounds: Rounds = None,
    draft_rounds: Rounds = None,
    sampling: Sampling | None = None,
    stop: Sequence[str] = (),
    stop_ids: Sequence[int] = (),
    ignore_eos: bool = False,
    chat: bool = False,
    raw: bool = False,
    cache: bool = True,
    tokenizer: str | os.PathLike[str] | None = None,
    provider: str | None = None,
    progress: Progress | None = None,
) -> Generation:
    """Continue texts: what ``rinsc generate`` does.

    ``model`` is the folder of a run, of a model that transformers saved or of an ONNX model, an
    ONNX file, or a module. Nothing runs before you read the result: iterate over it to stream,
    or take its ``text``. Several prompts are continued together, each with a seed of its own.

    ``sampling`` says how tokens are chosen; None takes the likeliest. A text ends before each of
    the texts ``stop``, at the ids ``stop_ids`` and, unless ``ignore_eos``, at those of the
    tokenizer. With ``chat`` each prompt is a user's message; ``raw`` reads the names of special
    tokens as plain characters. ``cache=False`` runs whole passes in PyTorch. ``tokenizer`` is a
    tokenizer.json, by default the one beside the model; a module needs one. ``provider`` is of
    ONNX: cuda or cpu. With ``draft_rounds`` the model drafts tokens at so many rounds and
    verifies them at ``rounds``, without loss; the result's ``drafts`` counts them.

    Raises `RinscError`, here for what can be told before anything runs.
    """
    from rinsc.text.streams import TextStream, checked_stop

    require_type("prompts", prompts, (str, Sequence), "prompts=['To be']")
    texts = (prompts,) if isinstance(prompts, str) else tuple(prompts)
    chosen = Sampling() if sampling is None else sampling
    name = setting("prompts", "--prompt")
    if not texts or not all(texts):
        raise UsageError("usage", f"{name} is empty", hint="give some text")
    if max_new_tokens < 0:
        message = f"{setting('max_new_tokens')} must be at least 0"
        raise UsageError("usage", message, hint="say how many to add")
    if chat and raw:
        message = f"{setting('chat')} writes special tokens, and {setting('raw')} knows none"
        raise UsageError("usage", message, hint="keep one of them")
    stops = checked_stop(stop)
    _require_text(name, texts)
    _require_text(setting("stop"), stops)
    require("numpy", "tokenizers")
    from rinsc.generation import checked_request

    file = None if tokenizer is None else Path(tokenizer)
    opened = open_text_model(
        model, file, rounds, cache=cache, provider=provider, draft_rounds=draft_rounds
    )
    own_tokenizer = opened.tokenizer
    rendered = render_chats(own_tokenizer, texts) if chat else texts
    rows = [own_tokenizer.encode(text, characters=raw).tolist() for text in rendered]
    ends = (*(() if ignore_eos else opened.stop_ids), *stop_ids)
    spec = opened.graph.spec
    request = checked_request(rows if len(rows) > 1 else rows[0], max_new_tokens, spec, ends)
    decode = partial(own_tokenizer.decode, skip_special_tokens=True)
    streams = [TextStream(decode, stops, row) for row in rows]
    token_steps = opened.steps(request, chosen)
    shown = ShownProgress() if progress is None else progress
    notes = partial(_note_limits, opened, request, chosen, shown)
    return Generation(texts, streams, token_steps, opened, notes)


def _added(
    steps: Iterator[Sequence[int | None]], streams: Sequence[TextStream]
) -> Iterator[list[str]]:
    for chosen in steps:
        pairs = zip(streams, chosen, strict=True)
        yield ["" if token is None else stream.push(token) for stream, token in pairs]
        if all(stream.ended for stream in streams):
            break
    yield [stream.finish() for stream in streams]


def _note_limits(
    opened: TextModel, request: Request, sampling: Sampling, progress: Progress
) -> None:
    """What you should know of the settings, of the rounds and of the length."""
    from rinsc.generation import window_moves

    values = {setting("top_k"): sampling.top_k, setting("top_p"): sampling.top_p}
    idle = [name for name, value in values.items() if value is not None]
    if idle and sampling.temperature == 0:
        verb = "has" if len(idle) == 1 else "have"
        add = f"add {setting('temperature')} 0.8"
        progress.note(f"{' and '.join(idle)} {verb} no effect at temperature 0; {add}")
    context, new_tokens = opened.graph.spec.context, request.new_tokens
    if opened.untrained is not None:
        progress.note(opened.untrained)
    if any(window_moves(len(row), new_tokens, context) for row in request.rows):
        message = f"prompt and {new_tokens} new tokens exceed the context of {context}: beyond it "
        message += "the window moves, so each token is slow and the first ones are forgotten"
        progress.note(message)


def _require_text(option: str, texts: Sequence[str]) -> None:
    """A shell may hand over bytes that are no text."""
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        hint = "write it in UTF-8"
        raise UsageError("usage", f"{option} is not text", hint=hint) from None
