"""A model that continues texts, opened in its runtime: PyTorch or ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from rinsc.backends.onnx.contract import MODEL_FILE
from rinsc.errors import CheckpointError, Problem, UsageError, option_values, setting
from rinsc.extras import require
from rinsc.sampling import Sampling
from rinsc.storage.files import file_digest
from rinsc.text.tokenizer_files import TOKENIZER_FILE, stop_ids
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
    from rinsc.generation import Request
    from rinsc.graph import BlockGraph, Rounds

# The ids chosen for every row of a request, step by step; None for a row that has ended.
Steps: TypeAlias = "Callable[[Request, Sampling], Iterator[Sequence[int | None]]]"


@dataclass(frozen=True)
class TextModel:
    """A model in its runtime: its tokenizer, how it chooses tokens, what is to be said of rounds.

    ``steps`` chooses among the ids that the tokenizer has. A text ends at each of ``stop_ids``.
    ``untrained`` tells of rounds beyond training; ``rounds_used`` gives, of repeats that may end
    early, the rounds of the last token. ``drafts`` counts what comes of drafts, where these are
    asked for.
    """

    graph: BlockGraph
    tokenizer: BytePairTokenizer
    steps: Steps
    stop_ids: tuple[int, ...]
    untrained: str | None
    rounds_used: Callable[[], Mapping[str, int]] = dict
    drafts: Drafts | None = None


def open_text_model(
    model: object,
    tokenizer: Path | None,
    rounds: Rounds,
    *,
    cache: bool,
    provider: str | None,
    draft_rounds: Rounds = None,
) -> TextModel:
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
        return _onnx_model(file, tokenizer, rounds, provider, draft_rounds)
    if name is not None:
        return _run(name, tokenizer, rounds, cache=cache, draft_rounds=draft_rounds)
    return _module(model, tokenizer, rounds, cache=cache, draft_rounds=draft_rounds)


def _module(
    model: Any,
    tokenizer: Path | None,
    rounds: Rounds,
    *,
    cache: bool,
    draft_rounds: Rounds = None,
) -> TextModel:
    """A module of PyTorch, or a model of transformers, with a tokenizer of its own."""
    require("torch", "safetensors")
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
    drafts, steps = _torch_steps(
        module, loaded, rounds=rounds, draft_rounds=draft_rounds, cache=cache
    )
    return TextModel(graph, loaded, steps, loaded.stop_ids, None, drafts=drafts)


def _torch_steps(
    module: CompiledModule,
    tokenizer: BytePairTokenizer,
    *,
    rounds: Rounds,
    draft_rounds: Rounds,
    cache: bool,
) -> tuple[Drafts | None, Steps]:
    """What counts the drafts, where these are asked for, and how the module chooses tokens."""
    from rinsc.backends.torch.generating import check_drafting, token_steps
    from rinsc.drafting import Drafts

    drafts = None
    if draft_rounds is not None:
        drafts = Drafts()
        with option_values():
            check_drafting(module, draft_rounds, rounds, cache=cache)
    steps = partial(
        token_steps,
        module,
        rounds=rounds,
        draft_rounds=draft_rounds,
        cache=cache,
        vocabulary=tokenizer.vocab_size,
        drafts=drafts,
    )
    return drafts, steps


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


def _run(
    model: str,
    tokenizer: Path | None,
    rounds: Rounds,
    *,
    cache: bool,
    draft_rounds: Rounds = None,
) -> TextModel:
    """A run folder in PyTorch."""
    require("torch", "safetensors")
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
    stops = stop_ids(folder.path, chosen.stop_ids, graph.spec.vocab_size)
    drafts, steps = _torch_steps(
        run_model(folder), chosen, rounds=counts, draft_rounds=draft_rounds, cache=cache
    )
    return TextModel(graph, chosen, steps, stops, untrained, drafts=drafts)


def _onnx_model(
    path: Path,
    tokenizer: Path | None,
    rounds: Rounds,
    provider: str | None,
    draft_rounds: Rounds = None,
) -> TextModel:
    """An ONNX file in ONNX Runtime."""
    require("onnxruntime")
    from rinsc.backends.onnx import Session
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
    stops = stop_ids(path.parent, chosen.stop_ids, size)
    drafts = None if draft_rounds is None else Drafts()
    steps = partial(
        session.steps,
        rounds=rounds,
        draft_rounds=draft_rounds,
        vocabulary=chosen.vocab_size,
        drafts=drafts,
    )
    return TextModel(
        *(session.graph, chosen, steps, stops, untrained, lambda: session.rounds_used, drafts)
    )


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
