"""`rinsc.generate`: texts continued by a run, a saved model, an ONNX model or a module."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rinsc.backends.onnx.contract import MODEL_FILE
from rinsc.errors import (
    CheckpointError,
    Problem,
    UsageError,
    option_values,
    plural,
    require_type,
    setting,
)
from rinsc.extras import require
from rinsc.progress import Progress, ShownProgress
from rinsc.sampling import Sampling
from rinsc.storage.files import file_digest
from rinsc.text.tokenizer_files import TOKENIZER_FILE, stop_ids
from rinsc.verbs.chat import render_chats
from rinsc.verbs.models import (
    is_model_folder,
    is_signature,
    open_run,
    own_rounds,
    run_model,
    run_spec,
    run_trained_rounds,
)

if TYPE_CHECKING:
    from rinsc.backends.torch import CompiledModule
    from rinsc.data.tokenizer import BytePairTokenizer
    from rinsc.drafting import Drafts
    from rinsc.generation import Request, RowLogits
    from rinsc.graph import BlockGraph, Rounds
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
        source: Source,
        notes: Callable[[], None],
        drafts: Drafts | None = None,
    ) -> None:
        self.prompts = prompts
        self.drafts = drafts  # what came of them so far; None where none were asked for
        self._texts = ["" for _ in prompts]
        self._source = source
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
        return self._source.rounds_used()

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
    from rinsc.generation import checked_request, stream_tokens

    file = None if tokenizer is None else Path(tokenizer)
    source = open_source(
        model, file, rounds, cache=cache, provider=provider, draft_rounds=draft_rounds
    )
    own_tokenizer = source.tokenizer
    rendered = render_chats(own_tokenizer, texts) if chat else texts
    rows = [own_tokenizer.encode(text, characters=raw).tolist() for text in rendered]
    ends = (*(() if ignore_eos else source.stop_ids), *stop_ids)
    spec = source.graph.spec
    request = checked_request(rows if len(rows) > 1 else rows[0], max_new_tokens, spec, ends)
    decode = partial(own_tokenizer.decode, skip_special_tokens=True)
    streams = [TextStream(decode, stops, row) for row in rows]
    token_steps = (
        stream_tokens(source.next_logits, request, chosen)
        if source.steps is None
        else source.steps(request, chosen)
    )
    shown = ShownProgress() if progress is None else progress
    notes = partial(_note_limits, source, request, chosen, shown)
    return Generation(texts, streams, token_steps, source, notes, source.drafts)


def _added(
    steps: Iterator[Sequence[int | None]], streams: Sequence[TextStream]
) -> Iterator[list[str]]:
    for chosen in steps:
        pairs = zip(streams, chosen, strict=True)
        yield ["" if token is None else stream.push(token) for stream, token in pairs]
        if all(stream.ended for stream in streams):
            break
    yield [stream.finish() for stream in streams]


def _note_limits(source: Source, request: Request, sampling: Sampling, progress: Progress) -> None:
    """What you should know of the settings, of the rounds and of the length."""
    from rinsc.generation import window_moves

    values = {setting("top_k"): sampling.top_k, setting("top_p"): sampling.top_p}
    idle = [name for name, value in values.items() if value is not None]
    if idle and sampling.temperature == 0:
        verb = "has" if len(idle) == 1 else "have"
        add = f"add {setting('temperature')} 0.8"
        progress.note(f"{' and '.join(idle)} {verb} no effect at temperature 0; {add}")
    context, new_tokens = source.graph.spec.context, request.new_tokens
    if source.untrained is not None:
        progress.note(source.untrained)
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


@dataclass(frozen=True)
class Source:
    """A model in its runtime: its tokenizer, its logits, and what is to be said of its rounds.

    ``next_logits`` are of the ids that the tokenizer has. A text ends at each of ``stop_ids``.
    ``untrained`` tells of rounds beyond training; ``rounds_used`` gives, of repeats that may end
    early, the rounds of the last token. ``steps`` are those with drafts, and ``drafts`` what comes
    of these.
    """

    graph: BlockGraph
    tokenizer: BytePairTokenizer
    next_logits: RowLogits
    stop_ids: tuple[int, ...]
    untrained: str | None
    rounds_used: Callable[[], Mapping[str, int]] = dict
    steps: Callable[[Request, Sampling], Iterator[Sequence[int | None]]] | None = None
    drafts: Drafts | None = None


def open_source(
    model: object,
    tokenizer: Path | None,
    rounds: Rounds,
    *,
    cache: bool,
    provider: str | None,
    draft_rounds: Rounds = None,
) -> Source:
    """The model in its runtime; raises UsageError for a setting of the other runtime."""
    name = os.fspath(model) if isinstance(model, str | os.PathLike) else None
    file = None if name is None else onnx_file(name)
    if file is None and provider is not None:
        message = f"{setting('provider')} is of ONNX models, and this is a run"
        raise UsageError("usage", message, hint="leave it out, or compile the run")
    if file is not None and not cache:
        message = f"{setting('cache=False', '--no-cache')} is of runs, and this is an ONNX model"
        hint = "leave it out; whether there is a cache was said to rinsc compile"
        raise UsageError("usage", message, hint=hint)
    if file is not None:
        return onnx_source(file, tokenizer, rounds, provider, draft_rounds)
    if name is not None:
        return run_source(name, tokenizer, rounds, cache=cache, draft_rounds=draft_rounds)
    return module_source(model, tokenizer, rounds, cache=cache, draft_rounds=draft_rounds)


def module_source(
    model: Any,
    tokenizer: Path | None,
    rounds: Rounds,
    *,
    cache: bool,
    draft_rounds: Rounds = None,
) -> Source:
    """A module of PyTorch, or a model of transformers, with a tokenizer of its own."""
    require("torch", "safetensors")
    from rinsc.backends.torch.decoding import row_logits
    from rinsc.graph import build_graph, resolve_rounds
    from rinsc.layers import require_language_model
    from rinsc.verbs.models import find_model

    module = find_model(model).compiled()
    graph = build_graph(module.graph.spec)
    require_language_model(graph.spec)
    with option_values():
        rounds = resolve_rounds(graph, rounds)
    if tokenizer is None:
        hint = f"name it with {setting('tokenizer')}"
        raise UsageError("no-tokenizer", "a module has no tokenizer", hint=hint)
    loaded = _tokenizer(tokenizer, graph.spec.vocab_size)
    logits = row_logits(module, rounds, cache=cache)
    source = Source(graph, loaded, known_logits(loaded, logits), loaded.stop_ids, None)
    return _with_drafts(source, module, rounds, draft_rounds, cache=cache)


def _with_drafts(
    source: Source, module: CompiledModule, rounds: Rounds, draft_rounds: Rounds, *, cache: bool
) -> Source:
    """The source, whose steps draft where that is asked for."""
    if draft_rounds is None:
        return source
    from rinsc.backends.torch.drafted import check_drafting, drafted_steps
    from rinsc.drafting import Drafts

    with option_values():
        check_drafting(module, draft_rounds, rounds, cache=cache)
    drafts, size = Drafts(), source.tokenizer.vocab_size

    def steps(request: Request, sampling: Sampling) -> Iterator[Sequence[int | None]]:
        asked = (request, sampling, rounds, draft_rounds)
        return drafted_steps(module, *asked, vocabulary=size, drafts=drafts)

    return replace(source, steps=steps, drafts=drafts)


def onnx_file(model: str) -> Path | None:
    """The ONNX file that is named, itself or by its folder; None for a run folder.

    Raises `CheckpointError` for what is neither.
    """
    if os.path.isfile(os.path.join(model, "model.toml")):
        return None
    if os.path.isfile(os.path.join(model, MODEL_FILE)):
        return Path(model, MODEL_FILE)
    if is_model_folder(model):
        return None
    if model.endswith(".onnx"):
        return Path(model)
    raise CheckpointError.of(_not_a_model(model))


def _not_a_model(text: str) -> Problem:
    """What the text names instead, and what to do about it."""
    from rinsc.training.saved_model import saved_model_hint

    make = "make one with rinsc train or rinsc compile, or name an ONNX file"
    if os.path.isdir(text):
        message = "this is neither the folder of a training run (model.toml, model.safetensors), "
        message += f"nor a model folder ({MODEL_FILE}), nor a saved model of rinsc (config.json)"
        is_other = os.path.isfile(os.path.join(text, "config.json"))
        hint = saved_model_hint(Path(text)) if is_other else make
        return Problem("not-a-model", message, place=text, hint=hint)
    if os.path.exists(text):
        hint = "name the folder of the run or of the model"
        return Problem("not-a-model", "this file is no ONNX model", place=text, hint=hint)
    if is_signature(text):
        hint = f'train it first: rinsc train "{text}" --data plays -o FOLDER'
        return Problem("not-a-model", "a signature has no weights", place=text, hint=hint)
    message = "there is no such file or folder"
    return Problem("not-a-model", message, place=text, hint=make)


def run_source(
    model: str,
    tokenizer: Path | None,
    rounds: Rounds,
    *,
    cache: bool,
    draft_rounds: Rounds = None,
) -> Source:
    """A run folder in PyTorch."""
    require("torch", "safetensors")
    from rinsc.backends.torch.decoding import row_logits
    from rinsc.graph import beyond_training, build_graph, resolve_rounds
    from rinsc.layers import require_language_model
    from rinsc.training.run_folder import begun_tokenizer

    folder = open_run(model)
    graph = build_graph(run_spec(folder))
    require_language_model(graph.spec)
    rounds = own_rounds(folder) if rounds is None else rounds
    with option_values():
        counts = resolve_rounds(graph, rounds)
    begun = begun_tokenizer(folder) if tokenizer is None else None
    chosen = _tokenizer(tokenizer or folder.tokenizer, graph.spec.vocab_size, begun)
    untrained = beyond_training(counts, run_trained_rounds(folder, graph))
    module = run_model(folder)
    next_logits = row_logits(module, counts, cache=cache)
    stops = stop_ids(folder.path, chosen.stop_ids, graph.spec.vocab_size)
    source = Source(graph, chosen, known_logits(chosen, next_logits), stops, untrained)
    return _with_drafts(source, module, counts, draft_rounds, cache=cache)


def onnx_source(
    path: Path,
    tokenizer: Path | None,
    rounds: Rounds,
    provider: str | None,
    draft_rounds: Rounds = None,
) -> Source:
    """An ONNX file in ONNX Runtime."""
    require("onnxruntime")
    from rinsc.backends.onnx import Session
    from rinsc.backends.onnx.run.session import row_logits
    from rinsc.drafting import Drafts
    from rinsc.graph import beyond_training, resolve_rounds
    from rinsc.layers import require_language_model

    session = Session(path, provider=provider)
    require_language_model(session.spec)
    with _rounds_option():
        session.check_rounds(rounds)
        counts = resolve_rounds(session.graph, rounds)
        if draft_rounds is not None:
            session.drafting(draft_rounds, rounds)
    size, beside = session.spec.vocab_size, path.parent / TOKENIZER_FILE
    if tokenizer is None and session.tokenizer_sha256 is not None and beside.is_file():
        _require_as_written(beside, session.tokenizer_sha256)
    chosen = _tokenizer(tokenizer or beside, size)
    run = session.rounds if rounds is None else counts
    untrained = beyond_training(run, session.trained_rounds)
    next_logits = row_logits(session, rounds)
    stops = stop_ids(path.parent, chosen.stop_ids, size)
    limited = known_logits(chosen, next_logits)
    source = Source(session.graph, chosen, limited, stops, untrained, lambda: session.rounds_used)
    if draft_rounds is None:
        return source
    drafts = Drafts()

    def steps(request: Request, sampling: Sampling) -> Iterator[Sequence[int | None]]:
        return session.steps(
            *(request, sampling, rounds, draft_rounds),
            vocabulary=chosen.vocab_size,
            drafts=drafts,
        )

    return replace(source, steps=steps, drafts=drafts)


def _require_as_written(path: Path, sha256: str) -> None:
    if file_digest(path) != sha256:
        message = "the tokenizer is damaged, or not the one that was written with the model"
        hint = f"restore the file; to use it as it is, name it with {setting('tokenizer')}"
        raise CheckpointError("damaged-tokenizer", message, place=str(path), hint=hint)


@contextmanager
def _rounds_option() -> Iterator[None]:
    """Rounds that the model was not compiled for are a mistake in the command."""
    try:
        with option_values():
            yield
    except UsageError as error:
        dial = setting("rounds='dynamic'", "--rounds dynamic")
        hint = f"compile it with {dial}, or leave {setting('rounds')} out"
        problems = [
            replace(problem, hint=hint) if problem.code == "fixed-rounds" else problem
            for problem in error.problems
        ]
        raise UsageError.of(*problems) from None


def known_logits(tokenizer: BytePairTokenizer, next_logits: RowLogits) -> RowLogits:
    """The logits of the ids that the tokenizer has: a model's vocabulary may be padded."""
    size = tokenizer.vocab_size
    return lambda rows, live: [logits[:size] for logits in next_logits(rows, live)]


def _tokenizer(
    path: Path, vocab_size: int, begun: Mapping[str, object] | None = None
) -> BytePairTokenizer:
    from rinsc.data.tokenizer import check_vocabulary, load_tokenizer

    if not path.is_file():
        hint = f"name it with {setting('tokenizer')}, or put it beside the model"
        raise UsageError("no-tokenizer", "there is no tokenizer", place=str(path), hint=hint)
    loaded = load_tokenizer(path, begun)
    check_vocabulary(loaded, vocab_size)
    return loaded
