"""``rinsc train``: trains a model on text, into a run folder."""

from __future__ import annotations

import dataclasses
import json as json_text
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions
from rinsc.cli.numbers import exact
from rinsc.cli.values import Count, RoundsOption, Seed, option_values, parse_rounds
from rinsc.cost.memory import Precision
from rinsc.errors import Problem, UsageError
from rinsc.extras import require

if TYPE_CHECKING:
    import torch

    from rinsc.graph import Rounds
    from rinsc.spec import ModelSpec
    from rinsc.train.data import Corpus
    from rinsc.train.loop import TrainResult
    from rinsc.train.run_folder import RunFolder
    from rinsc.train.tokenizer import BytePairTokenizer

DEFAULT_STEPS = 1000


def train(
    model: ModelArgument,
    /,
    *,
    data: str,
    output: Annotated[Path, Parameter(name=("--output", "-o"))],
    options: ModelOptions = NO_OPTIONS,
    steps: Count | None = None,
    tokens: Count | None = None,
    flops: Count | None = None,
    batch: Count = 16,
    seq: Count | None = None,
    lr: float = 2e-3,
    rounds: RoundsOption = (),
    seed: Seed = 0,
    precision: Precision = "fp32",
    device: Literal["auto", "cpu", "cuda"] = "auto",
    compile: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Train a model and keep everything about it in a run folder.

    Parameters
    ----------
    data
        plays, or text:PATH for a file or folder of .txt and .md files.
    output
        The run folder.
    steps
        Training steps; 1000 if neither these nor tokens nor FLOPs are given.
    tokens
        Tokens to train on, in place of steps.
    flops
        Training FLOPs to spend, in place of steps.
    batch
        Sequences in a step.
    seq
        Tokens in a sequence; the context if not given.
    lr
        Highest learning rate.
    rounds
        Rounds while training, of every repeat, as 3, or of one, as A=2; those written or drawn if
        not given.
    seed
        Of the weights and the order of the text.
    precision
        Of matrix products.
    device
        Where to train; auto takes a GPU where there is one.
    compile
        Compile each block with torch.compile; needs a C++ compiler.
    resume
        Go on from the folder's checkpoint.
    overwrite
        Remove a run that is already in the folder.
    json
        Print the result as JSON.
    """
    if resume and overwrite:
        hint = "keep the one that you mean"
        message = "--resume goes on with a run, --overwrite removes it"
        raise UsageError(Problem("usage", message, hint=hint))
    from rinsc.layers.language import require_language_model

    spec = options.spec(model)
    with option_values():
        require_language_model(spec)
    seq = spec.context if seq is None else seq
    asked = parse_rounds(rounds)
    with option_values():
        steps = _steps(spec, steps, tokens, flops, batch, seq, asked)
    require("torch", "safetensors", "numpy", "tokenizers")
    import torch

    from rinsc.backends.torch import to_torch
    from rinsc.backends.torch.memory import allocation_errors
    from rinsc.train import loop
    from rinsc.train.batches import tokenize
    from rinsc.train.compiler import require_compiler
    from rinsc.train.config import TrainConfig
    from rinsc.train.data import load_corpus
    from rinsc.train.fits import check_fits
    from rinsc.train.progress import TrainingProgress
    from rinsc.train.run_folder import check_run_folder, open_run_folder, require_same_run

    with option_values():
        config = TrainConfig(
            steps=steps,
            batch_sequences=batch,
            sequence_length=seq,
            learning_rate=lr,
            seed=seed,
            precision=precision,
            rounds=asked,
            warmup_steps=min(50, steps // 10),
            compile=compile,
        )
    place = _device(device)
    if compile:
        require_compiler(place)
    folder = check_run_folder(output, resume=resume, overwrite=overwrite)
    corpus = load_corpus(data)
    print(f"rinsc train: {spec.text}, {exact(steps)} steps on {data}", file=sys.stderr)
    tokenizer = _tokenizer(corpus, spec, folder, resume=resume)
    text = tokenize(corpus, tokenizer)
    if resume:
        require_same_run(folder, spec, config, text.record)
    check_fits(spec, text, config, place)
    torch.manual_seed(seed)
    with allocation_errors():
        module = to_torch(spec, device=place)
    # From here on an old run may go: the new one can start.
    open_run_folder(output, resume=resume, overwrite=overwrite)
    tokenizer.save(folder.tokenizer)
    with TrainingProgress(spec.text) as progress:
        result = loop.train(module, spec, text, config, folder, observer=progress, resume=resume)
    _print_result(result, folder, json=json)


def _steps(
    spec: ModelSpec,
    steps: int | None,
    tokens: int | None,
    flops: int | None,
    batch: int,
    seq: int,
    rounds: Rounds,
) -> int:
    """Steps from whichever of the three budgets is given, once the rounds and a step are sound."""
    from rinsc.cost import training_flops

    of_a_step = training_flops(spec, seq, batch=batch, rounds=rounds)
    if sum(budget is not None for budget in (steps, tokens, flops)) > 1:
        message = "more than one of --steps, --tokens and --flops is given"
        raise UsageError(Problem("usage", message, hint="keep one of them"))
    if tokens is not None:
        return _at_least_one(tokens, batch * seq, "tokens")
    if flops is not None:
        return _at_least_one(flops, of_a_step, "flops")
    return DEFAULT_STEPS if steps is None else steps


def _at_least_one(budget: int, of_a_step: int, name: str) -> int:
    if budget < of_a_step:
        message = f"--{name} {budget} pays for no step: one takes {of_a_step}"
        raise UsageError(
            Problem("budget-too-small", message, hint="give more, or a smaller --batch")
        )
    return budget // of_a_step


def _device(name: str) -> torch.device:
    import torch

    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        message = "there is no GPU that PyTorch can use"
        raise UsageError(Problem("no-gpu", message, hint="leave --device out"))
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


def _tokenizer(
    corpus: Corpus, spec: ModelSpec, folder: RunFolder, *, resume: bool
) -> BytePairTokenizer:
    """The tokenizer of the run that goes on, once it was begun, else one learned from the text."""
    from rinsc.train.tokenizer import load_tokenizer, train_tokenizer

    if resume and folder.data_record.exists() and folder.tokenizer.exists():
        return load_tokenizer(folder.tokenizer)
    texts = (document.text for document in corpus.train)
    return train_tokenizer(texts, spec.vocab_size)


def _print_result(result: TrainResult, folder: RunFolder, *, json: bool) -> None:
    facts = {"run": str(folder.path), **dataclasses.asdict(result)}
    if json:
        print(json_text.dumps(facts, indent=2))
        return
    rows = (
        ("bits per byte", f"{result.bits_per_byte:.4f} on held-out text"),
        ("steps", exact(result.steps)),
        ("tokens", f"{exact(result.tokens)} ({result.epochs:.2f} epochs)"),
        ("training FLOPs", exact(result.training_flops)),
        ("seconds", f"{result.seconds:.1f}"),
        ("run folder", str(folder.path)),
    )
    print("\n".join(f"{name:<15} {value}" for name, value in rows))
