"""``rinsc train``: trains a model on text, into a run folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions, spec_like
from rinsc.cli.numbers import exact, rounded_flops
from rinsc.cli.output import print_json, print_note, print_result
from rinsc.cli.runs import find_run, is_run
from rinsc.cli.train_options import (
    NO_TRAIN_OPTIONS,
    OPTION_OF_SETTING,
    TrainOptions,
    parse_budget,
)
from rinsc.cli.train_steps import (
    finished,
    fresh_module,
    prepare_text,
    run,
    spec_for,
    take_over,
    vocabulary_of,
)
from rinsc.cli.values import Count, Listed, listed, option_values
from rinsc.errors import UsageError, did_you_mean, plural
from rinsc.extras import require

if TYPE_CHECKING:
    from rinsc.spec import ModelSpec
    from rinsc.training.budget import Budget
    from rinsc.training.config import TrainConfig
    from rinsc.training.devices import Devices
    from rinsc.training.result import TrainResult
    from rinsc.training.run_folder import RunFolder
    from rinsc.training.warm_start import Source

DEFAULT_STEPS = 1000
TRACKERS = ("tensorboard", "trackio", "wandb")


def train(
    model: ModelArgument,
    /,
    *,
    data: str | None = None,
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
    options: ModelOptions = NO_OPTIONS,
    settings: TrainOptions = NO_TRAIN_OPTIONS,
    budget: str | None = None,
    steps: Count | None = None,
    tokens: Count | None = None,
    flops: Count | None = None,
    match: str | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    tokenizer: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    shard: bool = False,
    recursed: Literal["pin", "reshard"] = "pin",
    track: Listed = (),
    overwrite: bool = False,
    json: bool = False,
) -> None:
    """Train a model and keep everything about it in a run folder.

    A run that was interrupted, in whatever way, goes on from its last checkpoint when the same
    command is given again. Started by torchrun, all processes train one model together.

    Parameters
    ----------
    data
        What to train on, always needed. A corpus: plays, text:PATH, jsonl:PATH, parquet:PATH,
        hf:NAME or one of `rinsc data list`.
    output
        The run folder, always needed.
    budget
        Training FLOPs to spend, as 1e18, or 6e9tokens, or 1000steps; 1000 steps if no budget is
        given.
    steps
        Training steps, in place of a budget.
    tokens
        Tokens to train on, in place of a budget.
    flops
        Training FLOPs to spend, in place of a budget.
    match
        A baseline of the same dimensions, as AB: the budget is its, and this model gets the steps
        that cost as many training FLOPs.
    from_
        A run, finished or not, a checkpoint of one, or a model that transformers saved: begin with
        its weights, block by block, in its dimensions and with its tokenizer.
    tokenizer
        A tokenizer.json, or a folder with one; learned from the text if not given. Unless you
        name a vocabulary size, the model takes the tokenizer's.
    device
        Where to train; auto takes a GPU where there is one.
    shard
        Spread weights, gradients and optimizer over the processes of torchrun (FSDP2).
    recursed
        With --shard, whether blocks with several visits stay gathered or are gathered for each.
    track
        A tracker to tell besides metrics.jsonl: tensorboard, trackio or wandb; several between
        commas, or the option given again.
    overwrite
        Remove a run that is already in the folder.
    json
        Print the result as JSON.
    """
    from rinsc.layers.kind import require_language_model

    _check_model(model, from_)
    data, output = _required(data, output)
    source = None if from_ is None else _source(from_, output, overwrite=overwrite)
    spec = options.spec(model) if source is None else spec_for(source, model, options)
    with option_values():
        require_language_model(spec)
        spent = _budget(budget, steps, tokens, flops)
    require("torch", "safetensors", "numpy", "tokenizers", "transformers", "accelerate")
    if tokenizer is not None and not options.names_vocabulary(model):
        spec = dataclasses.replace(spec, vocab_size=vocabulary_of(tokenizer, source))
    with option_values(OPTION_OF_SETTING):
        baseline = None if match is None else spec_like(spec, match, {})
        config = _config(settings, spec, spent, baseline)
    _quieten()
    from rinsc.training.devices import find_devices
    from rinsc.training.fits import check_devices
    from rinsc.training.run_folder import RunFolder, check_run_folder

    place = find_devices(device, shard=shard, recursed=recursed)
    with place.lost_processes(), ExitStack() as held:
        if settings.fast or config.compile:
            config = _as_fast_as_possible(config, settings, place)
        check_devices(spec, config, place)
        trackers = _trackers(track)
        _print_plan(spec, config, data, place)
        done = None if overwrite else finished(output, spec, config, data, tokenizer, place, source)
        if done is not None:
            if place.is_first:
                print_note("rinsc train: this run is finished; nothing was done")
                _print_result(done, spec, config, RunFolder(output), json=json)
            return
        folder = check_run_folder(output, overwrite=overwrite)
        goes_on = place.on_first(lambda: folder.is_begun) and not overwrite
        text, words = prepare_text(
            *(spec, config, data, tokenizer, folder, place, source), goes_on=goes_on
        )
        module = fresh_module(spec, config, place)
        take_over(folder, spec, words, place, held, goes_on=goes_on, overwrite=overwrite)
        result = run(module, text, config, folder, place, trackers, source, resume=goes_on)
    if place.is_first:
        _print_result(result, spec, config, folder, json=json)


def _check_model(model: str, source: str | None) -> None:
    """Raises UsageError for a run in place of a model: its weights would be fresh ones."""
    if source is not None or not is_run(model):
        return
    spec = find_run(model).model_spec
    message = f"'{model}' is a run, and training begins with fresh weights"
    hint = f"write --from {model} to begin with its weights; for fresh ones name {spec}"
    raise UsageError("run-as-model", message, place="MODEL", hint=hint)


def _required(data: str | None, output: Path | None) -> tuple[str, Path]:
    """Both, once the model is known to be one; raises UsageError for what is missing."""
    if data is not None and output is not None:
        return data, output
    missing = [*([] if data else ["--data"]), *([] if output else ["--output"])]
    message = f"rinsc train needs {' and '.join(missing)}"
    hint = "write --data plays -o FOLDER; see rinsc train --help"
    raise UsageError("usage", message, hint=hint)


def _source(path: str, output: Path, *, overwrite: bool) -> Source:
    """The run that ``--from`` names, found before anything else."""
    require("torch", "safetensors", "numpy", "tokenizers", "transformers", "accelerate")
    from rinsc.training.run_folder import RunFolder
    from rinsc.training.warm_start import open_source

    return open_source(path, RunFolder(output), anew=overwrite)


def _budget(budget: str | None, steps: int | None, tokens: int | None, flops: int | None) -> Budget:
    from rinsc.training.budget import Budget

    given = [
        *([] if budget is None else [parse_budget(budget)]),
        *([] if steps is None else [Budget(steps, "steps")]),
        *([] if tokens is None else [Budget(tokens, "tokens")]),
        *([] if flops is None else [Budget(flops, "flops")]),
    ]
    if len(given) > 1:
        message = "more than one of --budget, --steps, --tokens and --flops is given"
        raise UsageError("usage", message, hint="keep one of them")
    return given[0] if given else Budget(DEFAULT_STEPS, "steps")


def _config(
    settings: TrainOptions, spec: ModelSpec, budget: Budget, baseline: ModelSpec | None
) -> TrainConfig:
    """The settings with their budget; warm-up and evaluations fit its steps."""
    from rinsc.training.budget import matched, with_budget
    from rinsc.training.fits import check_settings

    config = settings.config(
        spec.context, precision=settings.precision, compile=settings.compile, steps=1
    )
    check_settings(spec, config)
    if baseline is None:
        config = with_budget(config, spec, budget)
    else:
        plain = dataclasses.replace(config, rounds=None, rounds_schedule=())
        steps = with_budget(plain, baseline, budget).steps
        config = matched(dataclasses.replace(config, steps=steps), spec, baseline)
    return dataclasses.replace(config, warmup_steps=settings.warmup_steps(config.steps))


def _as_fast_as_possible(
    config: TrainConfig, settings: TrainOptions, place: Devices
) -> TrainConfig:
    """What ``--fast`` comes to on this device; raises RinscError for a compiler that was asked for
    and does not work."""
    from rinsc.errors import RinscError
    from rinsc.training.devices import fast_precision, require_compiler

    try:
        require_compiler(place.device)
        compiles = True
    except RinscError:
        if config.compile:
            raise
        compiles = False
    if not settings.fast:
        return config
    precision = fast_precision(place.device)
    note = f"fast: {precision}, blocks {'compiled' if compiles else 'not compiled'}"
    if place.is_first:
        print_note(f"rinsc train: {note}")
    return dataclasses.replace(config, precision=precision, compile=compiles)


def _trackers(track: Sequence[str]) -> tuple[str, ...]:
    """The trackers that are named; raises UsageError, and MissingExtraError."""
    names = tuple(listed(track))
    for name in names:
        if name not in TRACKERS:
            message = f"'{name}' is not a tracker"
            raise UsageError("usage", message, hint=did_you_mean(name, TRACKERS))
        require(name)
    return names


def _print_plan(spec: ModelSpec, config: TrainConfig, data: str, place: Devices) -> None:
    """What is about to be spent, in all three units."""
    from rinsc.training.budget import spending

    if not place.is_first:
        return
    plan = spending(config, spec)
    over = f" over {place.count} processes" if place.count > 1 else ""
    print_note(
        f"rinsc train: {spec.text} on {data}{over}: "
        f"{plural(plan.steps, 'step', exact(plan.steps))}, "
        f"{plural(plan.tokens, 'token', exact(plan.tokens))}, "
        f"{rounded_flops(plan.training_flops)} of training"
        + ("" if plan.is_exact else " in expectation")
    )


def _quieten() -> None:
    """The libraries below report for themselves; what a person sees is ours."""
    import logging

    for name in ("transformers", "accelerate", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _print_result(
    result: TrainResult, spec: ModelSpec, config: TrainConfig, folder: RunFolder, *, json: bool
) -> None:
    if json:
        from rinsc.training.result import result_facts

        facts = {"run": str(folder.path), **result_facts(spec, config, result)}
        print_json(facts)
        return
    rows = (
        ("bits per byte", f"{result.bits_per_byte:.4f} on {result.held_out_words}"),
        ("steps", exact(result.steps)),
        ("tokens", f"{exact(result.tokens)} ({result.epochs:.2f} epochs)"),
        ("training FLOPs", exact(result.training_flops)),
        ("seconds", f"{result.seconds:.1f}"),
        ("run folder", str(folder.path)),
    )
    print_result("\n".join(f"{name:<15} {value}" for name, value in rows))
