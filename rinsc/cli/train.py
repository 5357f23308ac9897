"""``rinsc train``: trains a model on text, into a run folder."""

from __future__ import annotations

import dataclasses
import gc
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from cyclopts import Group, Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelArgument, ModelOptions
from rinsc.cli.output import print_json, print_note, print_result
from rinsc.cli.values import (
    Count,
    Listed,
    Output,
    RoundsOption,
    Seed,
    listed,
    option_values,
    parse_rounds,
    share_bindings,
)
from rinsc.errors import UsageError
from rinsc.extras import TO_TRAIN, quick_imports, require
from rinsc.objectives import OBJECTIVES, objective_of_data
from rinsc.training.config import TrainConfig, setting_of
from rinsc.verbs.models import any_spec_like, find_run, is_run, is_signature

if TYPE_CHECKING:
    from rinsc.spec import ModelSpec
    from rinsc.training.budget import Budget
    from rinsc.training.result import Trained
    from rinsc.training.start import PlannedRun
    from rinsc.training.warm_start import Source

_STAGE = re.compile(r"(?P<rounds>\d{1,4})@(?P<share>\d+(?:\.\d+)?)(?P<percent>%?)")


def parse_schedule(text: str | None) -> tuple[tuple[float, int], ...]:
    """``1@0,2@30%`` as pairs of a share and rounds; raises UsageError."""
    if text is None:
        return ()
    stages = []
    for stage in text.split(","):
        match = _STAGE.fullmatch(stage.strip())
        if match is None:
            message = f"--rounds-schedule does not take '{stage[:60]}'"
            hint = "write rounds and where they begin: 1@0,2@30%,3@60%"
            raise UsageError("usage", message, hint=hint)
        share = float(match["share"]) / (100 if match["percent"] else 1)
        if share >= 1:
            message = f"--rounds-schedule begins '{stage.strip()[:60]}' after the end of the run"
            hint = "write a share of the run: 2@40% or 2@0.4"
            raise UsageError("usage", message, hint=hint)
        stages.append((share, int(match["rounds"])))
    return tuple(stages)


@dataclass(frozen=True)
class _Written:
    """How a setting is written on the command line where that is not as in Python."""

    type: Any
    default: Any
    parse: Callable[[Any], Any]


_WRITTEN = {
    "rounds": _Written(RoundsOption, (), parse_rounds),
    "rounds_schedule": _Written(str | None, None, parse_schedule),
    "seed": _Written(Seed, TrainConfig.seed, int),
    "warmup_steps": _Written(int, TrainConfig.warmup_steps, lambda steps: steps),
}

# Where the settings of a run are given, for errors and for the names of the options.
OPTION_OF_SETTING = {
    own.name: option for own in fields(TrainConfig) if (option := setting_of(own).option)
}

if TYPE_CHECKING:

    class TrainOptions:
        """Settings of a run; each is a key of its ``train.toml``."""
else:

    def _fields():
        types = get_type_hints(TrainConfig)
        for setting_field in fields(TrainConfig):
            setting, own = setting_of(setting_field), _WRITTEN.get(setting_field.name)
            if setting.option is None:
                continue
            kind = Count if types[setting_field.name] is int else types[setting_field.name]
            default, doc = setting_field.default, setting.doc
            if own is not None:
                kind, default = own.type, own.default
            if setting.otherwise is not None:
                kind, default = kind | None, None
                doc = f"{doc}; {setting.otherwise} if not given."
            yield (
                setting_field.name,
                Annotated[kind, Parameter(setting.option, help=doc)],
                field(default=default),
            )

    _options = make_dataclass("TrainOptions", _fields(), frozen=True)
    _options.__module__ = __name__  # what is of no module of a program is no class to cyclopts
    TrainOptions = Parameter(name="*", group=Group("Training"))(_options)


def given_settings(options: TrainOptions) -> dict[str, Any]:
    """The settings that the options give, by their names; raises UsageError."""
    values = {}
    for name in OPTION_OF_SETTING:
        value, own = getattr(options, name), _WRITTEN.get(name)
        value = value if own is None else own.parse(value)
        if value is not None:
            values[name] = value
    return values


NO_TRAIN_OPTIONS = TrainOptions()


def train(
    model: ModelArgument,
    /,
    *,
    data: str | None = None,
    output: Output = None,
    options: ModelOptions = NO_OPTIONS,
    settings: TrainOptions = NO_TRAIN_OPTIONS,
    fast: Annotated[bool, Parameter(group="Training")] = False,
    budget: str | None = None,
    steps: Count | None = None,
    tokens: Count | None = None,
    flops: Count | None = None,
    match: str | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    control: bool = False,
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
        hf:NAME or one of `rinsc data list`. Pictures: digits or npz:PATH.
    output
        The run folder, always needed.
    fast
        The fastest that the device has: bf16 where it multiplies it in hardware and a tiny model
        is not slower with it, and compiled blocks where a compiler works and the run is long.
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
    control
        With --heal, train the source itself with the other settings, to compare with.
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
    chosen = given_settings(settings)
    model, from_ = _healed(model, from_, chosen, control=control)
    _check_model(model, from_)
    data, output = _required(data, output)
    source = None if from_ is None else _source(from_, output, overwrite=overwrite)
    chosen = {"objective": objective_of_data(data), **chosen}
    if source is None and is_signature(model):
        options = _at_size_of_data(options, chosen["objective"], data)
    spec = options.any_spec(model) if source is None else _spec_like_source(source, model, options)
    with option_values():
        budgets = _budget(budget, steps=steps, tokens=tokens, flops=flops)
        OBJECTIVES[chosen["objective"]].check_model(spec)
    with quick_imports():
        require(*TO_TRAIN)
        from rinsc.training.budget import run_config
        from rinsc.training.devices import find_devices
        from rinsc.training.start import planned_run, with_vocabulary
    gc.freeze()  # what is imported stays until the command ends

    if tokenizer is not None and not options.names_vocabulary(model):
        spec = with_vocabulary(spec, tokenizer, source)
    with option_values(OPTION_OF_SETTING):
        baseline = None if match is None else any_spec_like(spec, match, {})
        config = run_config(spec, chosen, budgets, baseline)
    _quieten()
    planned = planned_run(
        *(spec, config, data, output),
        devices=find_devices(device, shard=shard, recursed=recursed),
        source=source,
        tokenizer=tokenizer,
        fast=fast,
        trackers=listed(track),
        overwrite=overwrite,
    )
    _print_plan(planned)
    trained = _run(planned)
    if planned.devices.is_first:
        if trained.was_finished:
            print_note("rinsc train: this run is finished; nothing was done")
        _print_result(trained, json=json)


def _healed(
    model: str, from_: str | None, chosen: dict[str, Any], *, control: bool
) -> tuple[str, str | None]:
    """The model and its source where a retrofit is healed, or its source as the control."""
    if control:
        source = chosen.pop("heal", "")
        if not source:
            message = "--control is about --heal, which names the source"
            raise UsageError("usage", message, hint="write --heal SOURCE --control")
        for name in ("heal_weight", "rounds", "rounds_schedule", "learns"):
            chosen.pop(name, None)
        return source, source
    return model, model if from_ is None and chosen.get("heal") and is_run(model) else from_


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
    require(*TO_TRAIN)
    from rinsc.training.run_folder import RunFolder
    from rinsc.training.warm_start import open_source

    return open_source(path, RunFolder(output), anew=overwrite)


def _budget(budget: str | None, **amounts: int | None) -> Budget | None:
    from rinsc.training.budget import budget_from_text

    texts = [budget, *(f"{amount}{unit}" for unit, amount in amounts.items() if amount is not None)]
    budgets = [budget_from_text(text) for text in texts if text is not None]
    if len(budgets) > 1:
        message = "more than one of --budget, --steps, --tokens and --flops is given"
        raise UsageError("usage", message, hint="keep one of them")
    return budgets[0] if budgets else None


def _at_size_of_data(options: ModelOptions, trained_for: str, data: str) -> ModelOptions:
    """The options, with the dimensions that the data of a signature gives where they are not."""
    if trained_for == "next_token":
        return options
    require(*TO_TRAIN)
    from rinsc.objectives import objective

    dimensions = objective(trained_for).dimensions(data)
    chosen = options.dimensions
    missing = {key: value for key, value in dimensions.items() if chosen.get(key) is None}
    return dataclasses.replace(options, **missing)


def _spec_like_source(source: Source, model: str, options: ModelOptions) -> ModelSpec:
    """The model at the dimensions of the source, but for those that are given.

    A file, a run folder and a preset have dimensions of their own.
    """
    from rinsc.syntax import bind, parse
    from rinsc.training.warm_start import spec_from

    if options.preset is not None or model.endswith(".toml") or is_run(model):
        return options.spec(model)
    (exponents,) = share_bindings(options.set_, [options.signed(model)])
    signature = bind(parse(model), exponents)
    return spec_from(source.spec, signature, strict=options.strict, **options.dimensions)


def _print_plan(planned: PlannedRun) -> None:
    """What is about to be spent, in all three units."""
    if planned.devices.is_first:
        for line in (*planned.notes, planned.text):
            print_note(f"rinsc train: {line}")


def _run(planned: PlannedRun) -> Trained:
    from rinsc.training.run import StoppedError

    try:
        return planned.run()
    except StoppedError as stop:
        if planned.devices.is_first:
            with suppress(OSError):  # a terminal that was closed
                print_note(
                    f"stopped after step {stop.step}, with a checkpoint: the same command goes on"
                )
        raise KeyboardInterrupt from None


def _quieten() -> None:
    """The libraries below report for themselves; what a person sees is ours."""
    import logging

    for name in ("transformers", "accelerate", "torch.distributed"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _print_result(trained: Trained, *, json: bool) -> None:
    if json:
        print_json(trained.facts())
        return
    print_result("\n".join(f"{name:<15} {value}" for name, value in trained.rows))
