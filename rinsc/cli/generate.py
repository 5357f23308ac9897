"""``rinsc generate``: continues a text, in PyTorch from a run folder or in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rinsc.cli.output import CommandProgress, print_json, print_text
from rinsc.cli.values import RoundsOption, Seed, parse_rounds
from rinsc.sampling import Sampling

if TYPE_CHECKING:
    from rinsc.verbs.generate import Generation


def generate_(
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
    draft_rounds: RoundsOption = (),
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
    draft_rounds
        Draft tokens at so many rounds and verify them at all, without loss.
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
    from rinsc.verbs.generate import generate

    progress = CommandProgress()
    generation = generate(
        *(model, prompt),
        max_new_tokens=max_new_tokens,
        rounds=parse_rounds(rounds),
        draft_rounds=parse_rounds(draft_rounds, "--draft-rounds"),
        sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
        stop=stop,
        stop_ids=stop_id,
        ignore_eos=ignore_eos,
        chat=chat,
        raw=raw,
        cache=cache,
        tokenizer=tokenizer,
        provider=provider,
        progress=progress,
    )
    pieces = generation.pieces()
    first = next(pieces)
    shown = [f"{text}\n" for text in prompt] if chat else prompt  # an answer has lines of its own
    if len(prompt) == 1 and not json:
        _print_live(shown[0], first[0], (piece for (piece,) in pieces))
    elif not json:
        _print_all(shown, first, pieces)
    else:
        _print_json(prompt, generation)
    if generation.drafts is not None:
        progress.note(generation.drafts.text)


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


def _print_json(prompts: Sequence[str], generation: Generation) -> None:
    """One object, or a list of several, with the rounds that the last token took, and drafts."""
    texts, used, drafts = generation.texts, generation.rounds_used, generation.drafts
    more: dict[str, object] = {"rounds_used": dict(used)} if used else {}
    if drafts is not None:
        more["drafts"] = {"drafted": drafts.drafted, "accepted": drafts.accepted}
    pairs = zip(prompts, texts, strict=True)
    documents = [{"prompt": prompt, "text": text, **more} for prompt, text in pairs]
    print_json(documents if len(documents) > 1 else documents[0])
