"""``rinsc generate``: continues a text, in PyTorch from a run folder or in ONNX Runtime."""

from __future__ import annotations

import json as json_text
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rinsc.cli.runs import open_run, run_model, run_spec
from rinsc.cli.values import RoundsOption, Seed, option_values, parse_rounds
from rinsc.errors import Problem, UsageError
from rinsc.extras import require

if TYPE_CHECKING:
    from rinsc.graph import Rounds
    from rinsc.sampling import Sampling
    from rinsc.train.tokenizer import BytePairTokenizer

Continue = Callable[[Sequence[int]], list[int]]


def generate(
    model: Annotated[str, Parameter(name="MODEL", help="A run folder or an ONNX file.")],
    /,
    *,
    prompt: str,
    rounds: RoundsOption = (),
    max_new_tokens: int = 100,
    temperature: float = 0.0,
    top_k: int | None = None,
    seed: Seed = 0,
    cache: Annotated[bool, Parameter(negative="--no-cache")] = True,
    tokenizer: Path | None = None,
    json: bool = False,
) -> None:
    """Print a text and what a trained model makes of it.

    Parameters
    ----------
    prompt
        The text to continue.
    rounds
        Rounds of every repeat, as 3, or of one, as A=2; those written if not given.
    max_new_tokens
        How many tokens to add.
    temperature
        0 takes the likeliest token, larger numbers draw more freely.
    top_k
        Draw from so many candidates.
    seed
        The same one draws the same text.
    cache
        Keep keys and values from token to token; a run folder can do without. Where rounds share
        them (kv=first, kv=last) that is an approximation.
    tokenizer
        A tokenizer.json; if not given, the run's, or the one beside the ONNX file.
    json
        Print JSON.
    """
    from rinsc.sampling import Sampling

    sampling = Sampling(temperature=temperature, top_k=top_k, seed=seed)
    if not prompt:
        raise UsageError(Problem("usage", "--prompt is empty", hint="give some text"))
    if max_new_tokens < 0:
        message = "--max-new-tokens must be at least 0"
        raise UsageError(Problem("usage", message, hint="say how many to add"))
    _require_text(prompt)
    asked = parse_rounds(rounds)
    is_onnx = model.endswith(".onnx")
    require("numpy", "tokenizers")
    make = _onnx_runtime if is_onnx else partial(_pytorch, cache=cache)
    words, proceed = make(model, tokenizer, max_new_tokens, sampling, asked)
    text = words.decode(proceed(words.encode(prompt).tolist()))
    if json:
        print(json_text.dumps({"prompt": prompt, "text": text}, ensure_ascii=False))
    else:
        print(prompt + text)


def _require_text(prompt: str) -> None:
    """A shell may hand over bytes that are no text."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError:
        hint = "write the prompt in UTF-8"
        raise UsageError(Problem("usage", "--prompt is not text", hint=hint)) from None


def _pytorch(
    model: str,
    tokenizer: Path | None,
    new_tokens: int,
    sampling: Sampling,
    rounds: Rounds,
    *,
    cache: bool,
) -> tuple[BytePairTokenizer, Continue]:
    """The tokenizer and the continuation of a run folder."""
    require("torch", "safetensors")
    from rinsc.graph import build_graph, resolve_rounds
    from rinsc.train.generate import generate_ids

    folder = open_run(model)
    spec = run_spec(folder)
    with option_values():
        resolve_rounds(build_graph(spec), rounds)
    words = _tokenizer(tokenizer or folder.tokenizer, spec.vocab_size)
    module = run_model(folder)
    return words, lambda ids: generate_ids(
        module, ids, new_tokens, sampling=sampling, rounds=rounds, cache=cache
    )


def _onnx_runtime(
    model: str, tokenizer: Path | None, new_tokens: int, sampling: Sampling, rounds: Rounds
) -> tuple[BytePairTokenizer, Continue]:
    """The tokenizer and the continuation of an ONNX file."""
    require("onnxruntime")
    from rinsc.backends.onnx import Session
    from rinsc.graph import resolve_rounds
    from rinsc.layers import require_language_model

    session = Session(Path(model))
    require_language_model(session.spec)
    with option_values():
        resolve_rounds(session.graph, rounds)
    beside = Path(model).parent / "tokenizer.json"
    words = _tokenizer(tokenizer or beside, session.spec.vocab_size)
    return words, lambda ids: session.generate(
        ids,
        new_tokens,
        temperature=sampling.temperature,
        top_k=sampling.top_k,
        seed=sampling.seed,
        rounds=rounds,
    )


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
