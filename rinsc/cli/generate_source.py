"""What ``rinsc generate`` runs: a run, a folder or an ONNX file; prompts of a chat."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rinsc.cli.runs import (
    is_model_folder,
    is_signature,
    open_run,
    own_rounds,
    run_model,
    run_spec,
    run_trained_rounds,
)
from rinsc.cli.values import option_values
from rinsc.errors import CheckpointError, DataError, Problem, UsageError
from rinsc.extras import require
from rinsc.storage.digests import file_digest
from rinsc.storage.files import parse_json
from rinsc.text.tokenizer_files import TOKENIZER_FILE, stop_ids

if TYPE_CHECKING:
    from rinsc.data.tokenizer import BytePairTokenizer
    from rinsc.generation import RowLogits
    from rinsc.graph import BlockGraph, Rounds


@dataclass(frozen=True)
class Source:
    """A model in its runtime: its tokenizer, its logits, and what is to be said of its rounds.

    ``next_logits`` are of the ids that the tokenizer has. A text ends at each of ``stop_ids``.
    ``untrained`` tells of rounds beyond training; ``rounds_used`` gives, of repeats that may end
    early, the rounds of the last token.
    """

    graph: BlockGraph
    tokenizer: BytePairTokenizer
    next_logits: RowLogits
    stop_ids: tuple[int, ...]
    untrained: str | None
    rounds_used: Callable[[], Mapping[str, int]]


def onnx_file(model: str) -> Path | None:
    """The ONNX file that is named, itself or by its folder; None for a run folder.

    Raises `CheckpointError` for what is neither.
    """
    if os.path.isfile(os.path.join(model, "model.toml")):
        return None
    if os.path.isfile(os.path.join(model, "model.onnx")):
        return Path(model, "model.onnx")
    if is_model_folder(model):
        return None
    if model.endswith(".onnx"):
        return Path(model)
    raise CheckpointError.of(_not_a_model(model))


def _not_a_model(text: str) -> Problem:
    """What the text names instead, and what to do about it."""
    make = "make one with rinsc train or rinsc compile, or name an ONNX file"
    if os.path.isdir(text):
        message = "this is neither the folder of a training run (model.toml, model.safetensors), "
        message += "nor a model folder (model.onnx), nor a saved model of rinsc (config.json)"
        return Problem("not-a-model", message, place=text, hint=make)
    if os.path.exists(text):
        hint = "name the folder of the run or of the model"
        return Problem("not-a-model", "this file is no ONNX model", place=text, hint=hint)
    if is_signature(text):
        hint = f'train it first: rinsc train "{text}" --data plays -o FOLDER'
        return Problem("not-a-model", "a signature has no weights", place=text, hint=hint)
    message = "there is no such file or folder"
    return Problem("not-a-model", message, place=text, hint=make)


def pytorch(model: str, tokenizer: Path | None, rounds: Rounds, *, cache: bool) -> Source:
    """A run folder in PyTorch."""
    require("torch", "safetensors")
    from rinsc.backends.torch.generate import row_logits
    from rinsc.graph import beyond_training, build_graph, resolve_rounds
    from rinsc.layers import require_language_model
    from rinsc.training.run_folder import begun_tokenizer

    folder = open_run(model)
    graph = build_graph(run_spec(folder))
    require_language_model(graph.spec)
    rounds = own_rounds(folder) if rounds is None else rounds
    with option_values():
        asked = resolve_rounds(graph, rounds)
    begun = begun_tokenizer(folder) if tokenizer is None else None
    chosen = _tokenizer(tokenizer or folder.tokenizer, graph.spec.vocab_size, begun)
    untrained = beyond_training(asked, run_trained_rounds(folder, graph))
    next_logits = row_logits(run_model(folder), rounds, cache=cache)
    stops = stop_ids(folder.path, chosen.stop_ids, graph.spec.vocab_size)
    return Source(graph, chosen, _of(chosen, next_logits), stops, untrained, dict)


def onnx_runtime(
    path: Path, tokenizer: Path | None, rounds: Rounds, provider: str | None
) -> Source:
    """An ONNX file in ONNX Runtime."""
    require("onnxruntime")
    from rinsc.backends.onnx import Session
    from rinsc.backends.onnx.run.session import row_logits
    from rinsc.graph import beyond_training, resolve_rounds
    from rinsc.layers import require_language_model

    session = Session(path, provider=provider)
    require_language_model(session.spec)
    with _rounds_option():
        session.check_rounds(rounds)
        asked = resolve_rounds(session.graph, rounds)
    size, beside = session.spec.vocab_size, path.parent / TOKENIZER_FILE
    if tokenizer is None and session.tokenizer_sha256 is not None and beside.is_file():
        _require_as_written(beside, session.tokenizer_sha256)
    chosen = _tokenizer(tokenizer or beside, size)
    run = session.rounds if rounds is None else asked
    untrained = beyond_training(run, session.trained_rounds)
    next_logits = row_logits(session, rounds)
    stops = stop_ids(path.parent, chosen.stop_ids, size)
    limited = _of(chosen, next_logits)
    return Source(session.graph, chosen, limited, stops, untrained, lambda: session.rounds_used)


def _require_as_written(path: Path, sha256: str) -> None:
    if file_digest(path) != sha256:
        message = "the tokenizer is damaged, or not the one that was written with the model"
        hint = "restore the file; to use it as it is, name it with --tokenizer"
        raise CheckpointError("damaged-tokenizer", message, place=str(path), hint=hint)


@contextmanager
def _rounds_option() -> Iterator[None]:
    """Rounds that the model was not compiled for are a mistake in the command."""
    try:
        with option_values():
            yield
    except UsageError as error:
        hint = "compile it with --rounds dynamic, or leave --rounds out"
        problems = [
            replace(problem, hint=hint) if problem.code == "fixed-rounds" else problem
            for problem in error.problems
        ]
        raise UsageError.of(*problems) from None


def _of(tokenizer: BytePairTokenizer, next_logits: RowLogits) -> RowLogits:
    """The logits of the ids that the tokenizer has: a model's vocabulary may be padded."""
    size = tokenizer.vocab_size
    return lambda rows, live: [logits[:size] for logits in next_logits(rows, live)]


def _tokenizer(
    path: Path, vocab_size: int, begun: Mapping[str, object] | None = None
) -> BytePairTokenizer:
    from rinsc.data.tokenizer import check_vocabulary, load_tokenizer

    if not path.is_file():
        hint = "name it with --tokenizer, or put it beside the model"
        raise UsageError("no-tokenizer", "there is no tokenizer", place=str(path), hint=hint)
    found = load_tokenizer(path, begun)
    check_vocabulary(found, vocab_size)
    return found


SECONDS = 60  # of a process that renders, most of them to import transformers
RENDER_SECONDS = 10  # of the processor, for the template alone
RENDER_BYTES = 1 << 29  # beside what is held before it


def render_chats(tokenizer: BytePairTokenizer, messages: tuple[str, ...]) -> list[str]:
    """Each message as the text of a chat that an assistant is to go on with.

    Raises DataError where the tokenizer has no template, and where it cannot be rendered.
    """
    template = tokenizer.declared.template
    if template is None:
        hint = "leave --chat out, or train with a --tokenizer FOLDER that has chat_template.jinja"
        raise DataError("no-chat-template", "the tokenizer has no chat template", hint=hint)
    require("transformers")
    asked = {
        "template": template,
        "messages": messages,
        "tokens": tokenizer.named_tokens,
        "seconds": RENDER_SECONDS,
    }
    command = [
        sys.executable,
        "-P",
        "-c",
        f"from {__name__} import render_process; render_process()",
    ]
    try:
        done = subprocess.run(
            command,
            input=json.dumps(asked).encode("ascii"),
            capture_output=True,
            timeout=SECONDS,
            check=False,
        )
        answer = parse_json(done.stdout)
    except subprocess.TimeoutExpired:
        raise _failed("it takes too long") from None
    except ValueError:
        raise _failed("it takes too much time or memory") from None
    if "error" in answer:
        raise _failed(str(answer["error"]))
    return [str(text) for text in answer["texts"]]


def render_process() -> None:
    """What the process of `render_chats` does: JSON from standard input to standard output."""
    from transformers.utils.chat_template_utils import render_jinja_template

    asked = parse_json(sys.stdin.read())
    _limit(asked["seconds"])
    try:
        chats = [[{"role": "user", "content": message}] for message in asked["messages"]]
        found = render_jinja_template(
            conversations=chats,
            chat_template=asked["template"],
            add_generation_prompt=True,
            **asked["tokens"],
        )
        answer: dict[str, object] = {"texts": found[0]}
    except MemoryError:
        answer = {"error": "it takes too much memory"}
    except Exception as error:  # a template may go wrong in every way
        answer = {"error": (str(error).strip() or type(error).__name__).partition("\n")[0][:200]}
    json.dump(answer, sys.stdout)


def _limit(render_seconds: int) -> None:
    """Where the system has such limits."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource
        from pathlib import Path

        used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
        seconds = int(used) + 1 + render_seconds
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        size = pages * resource.getpagesize() + RENDER_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _failed(reason: str) -> DataError:
    hint = "mend chat_template.jinja beside the tokenizer, or leave --chat out"
    message = f"the chat template cannot be used: {reason}"
    return DataError("bad-chat-template", message, hint=hint)
