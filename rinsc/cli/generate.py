"""``rinsc generate``: continues a text, in PyTorch from a run folder or in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rinsc.cli.diagnostics import note
from rinsc.cli.generate_source import Source, onnx_file, onnx_runtime, pytorch
from rinsc.cli.output import print_json, print_text
from rinsc.cli.values import RoundsOption, Seed, parse_rounds
from rinsc.errors import UsageError
from rinsc.extras import require

if TYPE_CHECKING:
    from rinsc.generation import Request
    from rinsc.graph import Rounds
    from rinsc.sampling import Sampling
    from rinsc.text.streams import TextStream


def generate(
    model: Annotated[
        str,
        Parameter(
            name="MODEL",
            help="The folder of a run, of a saved model or of an ONNX model, or an ONNX file.",
        ),
    ],
    /,
    *,
    prompt: tuple[str, ...],
    rounds: RoundsOption = (),
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: Seed = 0,
    stop: Annotated[tuple[str, ...], Parameter(show_default=False)] = (),
    stop_id: Annotated[tuple[int, ...], Parameter(show_default=False)] = (),
    ignore_eos: Annotated[bool, Parameter(negative=())] = False,
    chat: Annotated[bool, Parameter(negative=())] = False,
    raw: Annotated[bool, Parameter(negative=())] = False,
    cache: Annotated[bool, Parameter(negative="--no-cache")] = True,
    tokenizer: Path | None = None,
    provider: str | None = None,
    json: bool = False,
) -> None:
    """Print a text and what a trained model makes of it, word by word as it is made.

    Parameters
    ----------
    prompt
        The text to continue; several are continued together, each with a seed of its own.
    rounds
        Rounds of every repeat, as 3, or of one, as A=2; those written if not given.
    max_new_tokens
        How many tokens to add, at most.
    temperature
        0 takes the likeliest token, larger numbers draw more freely.
    top_k
        Draw from so many candidates.
    top_p
        Draw from the likeliest candidates that together reach this probability.
    seed
        The same one draws the same text; each further prompt takes the next one.
    stop
        End before this text; may be given several times.
    stop_id
        End at this token id, besides those that end a text; may be given several times.
    ignore_eos
        Go on after a token that ends a text.
    chat
        Treat each prompt as a user's message: the tokenizer's chat template makes the text of it.
    raw
        Treat the names of special tokens in a prompt as plain characters.
    cache
        Keep keys and values from token to token; a run folder can do without. Where rounds share
        them (kv=first, kv=last) that is an approximation.
    tokenizer
        A tokenizer.json; if not given, the run's, or the one beside the ONNX file.
    provider
        What runs an ONNX model: cuda or cpu; if not given, the first that loads.
    json
        Print JSON.
    """
    from rinsc.cli.generate_source import render_chats
    from rinsc.generation import checked_request, stream_tokens
    from rinsc.sampling import Sampling
    from rinsc.text.streams import TextStream, checked_stop

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    if not all(prompt):
        raise UsageError("usage", "--prompt is empty", hint="give some text")
    if max_new_tokens < 0:
        message = "--max-new-tokens must be at least 0"
        raise UsageError("usage", message, hint="say how many to add")
    if chat and raw:
        message = "--chat writes special tokens, and --raw knows none"
        raise UsageError("usage", message, hint="keep one of them")
    stops = checked_stop(stop)
    _require_text("--prompt", prompt)
    _require_text("--stop", stops)
    asked = parse_rounds(rounds)
    require("numpy", "tokenizers")
    source = _open(model, tokenizer, asked, cache=cache, provider=provider)
    chosen, spec = source.tokenizer, source.graph.spec
    asked_texts = render_chats(chosen, prompt) if chat else prompt
    rows = [chosen.encode(text, characters=raw).tolist() for text in asked_texts]
    ends = (*(() if ignore_eos else source.stop_ids), *stop_id)
    request = checked_request(rows if len(rows) > 1 else rows[0], max_new_tokens, spec, ends)
    decode = partial(chosen.decode, skip_special_tokens=True)
    streams = [TextStream(decode, stops, row) for row in rows]
    pieces = _pieces(stream_tokens(source.next_logits, request, sampling), streams)
    first = next(pieces)  # most of what can fail has then failed, with nothing printed
    _note_limits(source, request, sampling)
    shown = [f"{text}\n" for text in prompt] if chat else prompt  # an answer has lines of its own
    if len(prompt) == 1 and not json:
        _print_live(shown[0], first[0], (piece for (piece,) in pieces))
    elif not json:
        _print_all(shown, first, pieces)
    else:
        texts = ["".join(parts) for parts in zip(first, *pieces, strict=True)]
        _print_json(prompt, texts, source.rounds_used())


def _pieces(
    steps: Iterator[Sequence[int | None]], streams: Sequence[TextStream]
) -> Iterator[list[str]]:
    """What each step adds to each text, until all texts have ended."""
    for chosen in steps:
        pairs = zip(streams, chosen, strict=True)
        yield ["" if token is None else stream.push(token) for stream, token in pairs]
        if all(stream.ended for stream in streams):
            break
    yield [stream.finish() for stream in streams]


def _print_live(prompt: str, first: str, pieces: Iterator[str]) -> None:
    """The text while it is made; what stands there when it is interrupted stays."""
    print_text(prompt + first, end="", flush=True)
    try:
        for piece in pieces:
            print_text(piece, end="", flush=True)
    finally:
        print_text("", flush=True)


def _print_all(
    prompts: Sequence[str], first: Sequence[str], pieces: Iterator[Sequence[str]]
) -> None:
    """Several texts with an empty line between them; when interrupted, as far as they are made."""
    texts = [prompt + piece for prompt, piece in zip(prompts, first, strict=True)]
    try:
        for added in pieces:
            texts = [text + piece for text, piece in zip(texts, added, strict=True)]
    finally:
        print_text("\n\n".join(texts), flush=True)


def _print_json(prompts: Sequence[str], texts: Sequence[str], used: Mapping[str, int]) -> None:
    """One object, or a list of several; ``used`` are the rounds that the last token took."""
    more = {"rounds_used": dict(used)} if used else {}
    pairs = zip(prompts, texts, strict=True)
    found = [{"prompt": prompt, "text": text, **more} for prompt, text in pairs]
    print_json(found if len(found) > 1 else found[0])


def _note_limits(source: Source, request: Request, sampling: Sampling) -> None:
    """What the user should know of the settings, of the rounds and of the length."""
    from rinsc.generation import window_moves

    given = {"--top-k": sampling.top_k, "--top-p": sampling.top_p}
    idle = [option for option, value in given.items() if value is not None]
    if idle and sampling.temperature == 0:
        verb = "has" if len(idle) == 1 else "have"
        note(f"{' and '.join(idle)} {verb} no effect at temperature 0; add --temperature 0.8")
    context, new_tokens = source.graph.spec.context, request.new_tokens
    if source.untrained is not None:
        note(source.untrained)
    if any(window_moves(len(row), new_tokens, context) for row in request.rows):
        message = f"prompt and {new_tokens} new tokens exceed the context of {context}: beyond it "
        note(message + "the window moves, so each token is slow and the first ones are forgotten")


def _require_text(option: str, texts: Sequence[str]) -> None:
    """A shell may hand over bytes that are no text."""
    try:
        "".join(texts).encode("utf-8")
    except UnicodeEncodeError:
        hint = "write it in UTF-8"
        raise UsageError("usage", f"{option} is not text", hint=hint) from None


def _open(
    model: str, tokenizer: Path | None, rounds: Rounds, *, cache: bool, provider: str | None
) -> Source:
    """The model in its runtime; raises UsageError for an option of the other runtime."""
    file = onnx_file(model)
    if file is None:
        if provider is not None:
            message = "--provider is of ONNX models, and this is a run"
            raise UsageError("usage", message, hint="leave it out, or compile the run")
        return pytorch(model, tokenizer, rounds, cache=cache)
    if not cache:
        message = "--no-cache is of runs, and this is an ONNX model"
        hint = "leave it out; whether there is a cache was said to rinsc compile"
        raise UsageError("usage", message, hint=hint)
    return onnx_runtime(file, tokenizer, rounds, provider)
