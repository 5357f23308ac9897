"""``rinsc generate``: continues a text, in PyTorch from a run folder or in ONNX Runtime."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rinsc.cli.diagnostics import note
from rinsc.cli.runs import open_run, run_model, run_spec
from rinsc.cli.values import RoundsOption, Seed, option_values, parse_rounds
from rinsc.errors import CheckpointError, Problem, UsageError
from rinsc.extras import require

if TYPE_CHECKING:
    from rinsc.generation import Request, RowLogits
    from rinsc.graph import BlockGraph, Rounds
    from rinsc.text import TextStream
    from rinsc.train.run_folder import RunFolder
    from rinsc.train.tokenizer import BytePairTokenizer


@dataclass(frozen=True)
class Source:
    """A model in its runtime: its words, its logits, and what is to be said of its rounds."""

    graph: BlockGraph
    words: BytePairTokenizer
    next_logits: RowLogits
    untrained: str | None


def generate(
    model: Annotated[
        str, Parameter(name="MODEL", help="A run folder, a model folder or an ONNX file.")
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
    from rinsc.generation import checked_request, stream_tokens
    from rinsc.sampling import Sampling
    from rinsc.text import TextStream, checked_stop

    sampling = Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed)
    if not all(prompt):
        raise UsageError(Problem("usage", "--prompt is empty", hint="give some text"))
    if max_new_tokens < 0:
        message = "--max-new-tokens must be at least 0"
        raise UsageError(Problem("usage", message, hint="say how many to add"))
    stops = checked_stop(stop)
    _require_text("--prompt", prompt)
    _require_text("--stop", stops)
    asked = parse_rounds(rounds)
    require("numpy", "tokenizers")
    onnx_file = _onnx_file(model)
    if onnx_file is None:
        if provider is not None:
            message = "--provider is of ONNX models, and this is a run"
            raise UsageError(Problem("usage", message, hint="leave it out, or compile the run"))
        source = _pytorch(model, tokenizer, asked, cache=cache)
    else:
        source = _onnx_runtime(onnx_file, tokenizer, asked, provider)
    words, spec = source.words, source.graph.spec
    rows = [words.encode(text) for text in prompt]
    request = checked_request(rows if len(rows) > 1 else rows[0], max_new_tokens, spec)
    streams = [TextStream(words.decode, stops) for _ in prompt]
    pieces = _pieces(stream_tokens(source.next_logits, request, sampling), streams)
    first = next(pieces)  # most of what can fail has then failed, with nothing printed
    _note_limits(source, request)
    if len(prompt) == 1 and not json:
        _print_live(prompt[0], first[0], (piece for (piece,) in pieces))
    else:
        texts = ["".join(parts) for parts in zip(first, *pieces, strict=True)]
        _print_all(prompt, texts, json=json)


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
    print(prompt + first, end="", flush=True)
    try:
        for piece in pieces:
            print(piece, end="", flush=True)
    finally:
        print(flush=True)


def _print_all(prompts: Sequence[str], texts: Sequence[str], *, json: bool) -> None:
    """Several texts with an empty line between them; as JSON one object, or a list of several."""
    pairs = list(zip(prompts, texts, strict=True))
    if json:
        found = [{"prompt": prompt, "text": text} for prompt, text in pairs]
        print(json_text.dumps(found if len(found) > 1 else found[0], ensure_ascii=False))
    else:
        print("\n\n".join(prompt + text for prompt, text in pairs))


def _note_limits(source: Source, request: Request) -> None:
    """What the user should know of the rounds and of the length."""
    from rinsc.generation import window_moves

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
        raise UsageError(Problem("usage", f"{option} is not text", hint=hint)) from None


def _onnx_file(model: str) -> Path | None:
    """The ONNX file that is named, itself or by its folder; None for a run folder.

    Raises `CheckpointError` for what is neither.
    """
    path = Path(model)
    if (path / "model.toml").is_file():
        return None
    if (path / "model.onnx").is_file():
        return path / "model.onnx"
    if model.endswith(".onnx"):
        return path
    message = "this is neither the folder of a training run (model.toml, model.safetensors) nor a "
    message += "model folder (model.onnx, tokenizer.json)"
    hint = "make one with rinsc train or rinsc compile, or name an ONNX file"
    raise CheckpointError(Problem("not-a-model", message, place=model, hint=hint))


def _pytorch(model: str, tokenizer: Path | None, rounds: Rounds, *, cache: bool) -> Source:
    """A run folder in PyTorch."""
    require("torch", "safetensors")
    from rinsc.graph import beyond_training, build_graph, resolve_rounds
    from rinsc.layers import require_language_model
    from rinsc.train.generate import row_logits

    folder = open_run(model)
    graph = build_graph(run_spec(folder))
    require_language_model(graph.spec)
    with option_values():
        asked = resolve_rounds(graph, rounds)
    words = _tokenizer(tokenizer or folder.tokenizer, graph.spec.vocab_size)
    untrained = beyond_training(asked, _trained_rounds(folder, graph))
    next_logits = row_logits(run_model(folder), rounds, cache=cache)
    return Source(graph, words, next_logits, untrained)


def _trained_rounds(folder: RunFolder, graph: BlockGraph) -> Mapping[str, int]:
    """The most rounds of every repeat in this run: as it was told, else by the signature."""
    from rinsc.cost.flops import set_rounds
    from rinsc.graph import trained_rounds
    from rinsc.train.config import config_from_toml

    if not folder.config.is_file():
        return trained_rounds(graph)
    text = folder.config.read_text(encoding="utf-8", errors="replace")
    config = config_from_toml(text, place=str(folder.config))
    return trained_rounds(graph) | set_rounds(graph, config.rounds)


def _onnx_runtime(
    path: Path, tokenizer: Path | None, rounds: Rounds, provider: str | None
) -> Source:
    """An ONNX file in ONNX Runtime."""
    require("onnxruntime")
    from rinsc.backends.onnx import Session
    from rinsc.backends.onnx.generation import row_logits
    from rinsc.graph import beyond_training, resolve_rounds, trained_rounds
    from rinsc.layers import require_language_model

    with option_values():
        session = Session(path, provider=provider)
    require_language_model(session.spec)
    with option_values():
        asked = resolve_rounds(session.graph, rounds)
    words = _tokenizer(tokenizer or path.parent / "tokenizer.json", session.spec.vocab_size)
    run = session.rounds if rounds is None else asked
    untrained = beyond_training(run, trained_rounds(session.graph))
    return Source(session.graph, words, row_logits(session, rounds), untrained)


def _tokenizer(path: Path, vocab_size: int) -> BytePairTokenizer:
    from rinsc.train.tokenizer import check_vocabulary, load_tokenizer

    if not path.is_file():
        hint = "name it with --tokenizer, or put it beside the model"
        raise UsageError(
            Problem("no-tokenizer", "there is no tokenizer", place=str(path), hint=hint)
        )
    found = load_tokenizer(path)
    check_vocabulary(found, vocab_size)
    return found
