"""`rinsc.train`: a run from its settings to its result, in one process or in several.

A run is planned first, which checks everything and writes nothing. Then it runs:

1. a run that is finished already gives its result, so that a repeated command costs nothing;
2. the first process prepares the text, and the others find it prepared;
3. the folder becomes this run's alone, and an old run in it goes;
4. the model trains, from its last checkpoint where there is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rinsc.backends.hf import RinscForCausalLM, causal_lm
from rinsc.backends.torch.memory import allocation_errors
from rinsc.backends.torch.parallel import Recursed
from rinsc.data.batches import TokenizedCorpus
from rinsc.data.cache import prepare
from rinsc.data.corpora import learned_tokenizer, open_corpus
from rinsc.data.documents import Source as Corpus
from rinsc.data.tokenizer import BytePairTokenizer, load_tokenizer, tokenizer_from_state
from rinsc.errors import OutputError, RinscError, UsageError, did_you_mean
from rinsc.extras import require
from rinsc.layers.kind import require_language_model
from rinsc.progress import PreparationProgress
from rinsc.resources import zoo_file
from rinsc.spec import ModelSpec, model_spec, with_signature
from rinsc.syntax import parse
from rinsc.training.budget import Budget, Spending, budget_from_text, matched, spending, with_budget
from rinsc.training.config import TrainConfig, config_from_mapping
from rinsc.training.devices import Devices, fast_precision, find_devices, require_compiler
from rinsc.training.fits import check_devices, check_fits, check_settings, check_vocabulary
from rinsc.training.progress import TrainingProgress
from rinsc.training.result import TrainResult, finished_result, result_facts
from rinsc.training.resuming import another_run, require_same_run
from rinsc.training.run import train_module
from rinsc.training.run_folder import (
    RunFolder,
    alone_in,
    begun_tokenizer,
    check_run_folder,
    open_run_folder,
)
from rinsc.training.warm_start import Source, check_source, open_source, spec_from

MAX_WARMUP, WARMUP_SHARE = 50, 0.1  # steps, and of all steps
DEFAULT_STEPS = 1000
DEFAULT_PRESET = "tiny"
TRACKERS = ("tensorboard", "trackio", "wandb")

Settings = TrainConfig | Mapping[str, Any] | None
DeviceName = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Trained:
    """A finished run: where it is, what was trained and how, and the figures it came to.

    ``was_finished`` where the run had ended before, and nothing was done.
    """

    path: Path
    spec: ModelSpec
    config: TrainConfig
    result: TrainResult
    was_finished: bool = False

    def facts(self) -> dict[str, object]:
        """Everything as plain data, as ``rinsc train --json`` prints it."""
        return {"run": str(self.path), **result_facts(self.spec, self.config, self.result)}


def train(
    model: str | Path | ModelSpec,
    *,
    data: str,
    output: str | Path,
    budget: str | Budget | None = None,
    settings: Settings = None,
    match: str | ModelSpec | None = None,
    start_from: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: DeviceName = "auto",
    shard: bool = False,
    recursed: Recursed = "pin",
    fast: bool = False,
    trackers: Sequence[str] = (),
    overwrite: bool = False,
    progress: bool = True,
) -> Trained:
    """Train a model on ``data`` into the folder ``output``, as ``rinsc train`` does.

    A ``model`` that is a signature has the dimensions of the preset tiny, or of what it starts
    from, and as many tokens as the ``tokenizer`` that is given. ``settings`` is a `TrainConfig`, or
    some of its fields by name: sequences are then as long as the context, and the warm-up is a
    tenth of the run. ``budget`` is as ``"1e18"`` FLOPs, ``"6e9tokens"`` or ``"1000steps"``; without
    one the steps are those of the settings. ``match`` names a baseline whose training FLOPs this
    run may spend. To resume an interrupted run, call it again.

    Raises RinscError for whatever does not fit, before anything is written, and `StoppedError`
    after a signal, with a checkpoint written.
    """
    folder = RunFolder(Path(output))
    source = None
    if start_from is not None:
        source = open_source(str(start_from), folder, anew=overwrite)
    spec = _spec(model, source, None if tokenizer is None else Path(tokenizer))
    baseline = with_signature(spec, match) if isinstance(match, str) else match
    config = run_config(spec, settings, budget, baseline)
    run = planned_run(
        *(spec, config, data, Path(output)),
        source=source,
        tokenizer=None if tokenizer is None else Path(tokenizer),
        devices=find_devices(device, shard=shard, recursed=recursed),
        fast=fast,
        trackers=trackers,
        overwrite=overwrite,
    )
    return run.run(progress=progress)


def run_config(
    spec: ModelSpec,
    settings: Settings = None,
    budget: str | Budget | None = None,
    baseline: ModelSpec | None = None,
) -> TrainConfig:
    """The settings of a run of ``spec`` with the steps that its budget pays for.

    Raises SpecError where they do not fit each other or the model.
    """
    require_language_model(spec)
    if isinstance(budget, str):
        budget = budget_from_text(budget)
    warmup: int | None = None
    if isinstance(settings, TrainConfig):
        config, warmup = settings, settings.warmup_steps
    else:
        values = {"sequence_length": spec.context, "steps": DEFAULT_STEPS, **(settings or {})}
        config, warmup = config_from_mapping(values), values.get("warmup_steps")
    check_settings(spec, config)
    budget = budget or Budget(config.steps, "steps")
    if baseline is None:
        config = with_budget(config, spec, budget)
    else:
        plain = dataclasses.replace(config, rounds=None, rounds_schedule=())
        steps = with_budget(plain, baseline, budget).steps
        config = matched(dataclasses.replace(config, steps=steps), spec, baseline)
    if warmup is None:
        warmup = min(MAX_WARMUP, int(config.steps * WARMUP_SHARE))
    return dataclasses.replace(config, warmup_steps=warmup)


def planned_run(
    spec: ModelSpec,
    config: TrainConfig,
    data: str,
    output: Path,
    *,
    devices: Devices,
    source: Source | None = None,
    tokenizer: Path | None = None,
    fast: bool = False,
    trackers: Sequence[str] = (),
    overwrite: bool = False,
) -> PlannedRun:
    """A run whose settings fit its model and its devices; nothing is written.

    ``fast`` takes bf16 and compiled blocks where the device is faster with them.
    """
    notes: tuple[str, ...] = ()
    with devices.lost_processes():
        if fast or config.compile:
            config, notes = _as_fast_as_possible(config, devices, fast=fast)
        check_devices(spec, config, devices)
        for name in trackers:
            if name not in TRACKERS:
                hint = did_you_mean(name, TRACKERS)
                raise UsageError("usage", f"'{name}' is not a tracker", hint=hint)
            require(name)
    folder = RunFolder(output)
    return PlannedRun(
        *(spec, config, data, folder, devices, source, tokenizer),
        trackers=tuple(trackers),
        overwrite=overwrite,
        notes=notes,
    )


@dataclass(frozen=True)
class PlannedRun:
    """A run of which all is known but its text; ``notes`` say what ``fast`` came to."""

    spec: ModelSpec
    config: TrainConfig
    data: str
    folder: RunFolder
    devices: Devices
    source: Source | None
    tokenizer: Path | None
    trackers: tuple[str, ...]
    overwrite: bool
    notes: tuple[str, ...]

    @property
    def spending(self) -> Spending:
        """What the run will have spent, in all three units."""
        return spending(self.config, self.spec)

    def run(self, *, progress: bool = True) -> Trained:
        """Train, or go on, or find the run finished; every process calls it."""
        devices, shown = self.devices, progress and self.devices.is_first
        with devices.lost_processes(), ExitStack() as held:
            result = None if self.overwrite else devices.on_first(self._finished)
            was_finished = result is not None
            if result is None:
                check_run_folder(self.folder.path, overwrite=self.overwrite)
                begun = devices.on_first(lambda: self.folder.is_begun)
                resume = begun and not self.overwrite
                text, tokenizer = self._text(resume=resume, shown=shown)
                module = self._fresh_module()
                devices.on_first(lambda: self._take_over(tokenizer, held, resume=resume))
                result = self._train(module, text, resume=resume, shown=shown)
        return Trained(self.folder.path, self.spec, self.config, result, was_finished)

    def _finished(self) -> TrainResult | None:
        """The result of this very run; raises OutputError where another one is finished here."""
        folder, tokenizer = self.folder, None
        if self.tokenizer is not None:
            tokenizer = load_tokenizer(self.tokenizer, begun_tokenizer(folder))
        result = finished_result(folder, self.spec, self.config, self.data, tokenizer, self.source)
        if result is None and folder.is_finished:
            raise another_run(folder, self.spec, self.config, self.source)
        return result

    def _text(self, *, resume: bool, shown: bool) -> tuple[TokenizedCorpus, BytePairTokenizer]:
        """The text and its tokenizer, once everything fits."""

        def first() -> str:
            corpus = open_corpus(self.data)
            tokenizer = self._tokenizer(corpus, resume=resume)
            if not resume:  # which has more to say of another model
                check_vocabulary(self.spec, tokenizer.vocab_size)
            text = _prepared(corpus, tokenizer, shown=shown)
            if resume:
                require_same_run(self.folder, self.spec, self.config, text.record, self.source)
            elif self.source is not None:
                check_source(self.source.spec, self.spec, self.source.path)
            check_fits(self.spec, text, self.config, self.devices)
            return tokenizer.to_state()

        tokenizer = tokenizer_from_state(self.devices.on_first(first))
        return _prepared(open_corpus(self.data), tokenizer, shown=shown), tokenizer

    def _tokenizer(self, corpus: Corpus, *, resume: bool) -> BytePairTokenizer:
        """The given one, that of the run that goes on or is begun with, or one learned here."""
        folder, source = self.folder, self.source
        begun = begun_tokenizer(folder) if resume else None
        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer, begun)
        if resume and folder.data_record.exists() and folder.tokenizer.exists():
            return load_tokenizer(folder.tokenizer, begun)
        if source is not None and source.run is not None:
            return source.run.tokenizer()
        return learned_tokenizer(corpus, self.spec.vocab_size)

    def _fresh_module(self) -> RinscForCausalLM:
        torch.manual_seed(self.config.seed)
        with allocation_errors():
            return causal_lm(self.spec, device=self.devices.device)

    def _take_over(self, tokenizer: BytePairTokenizer, held: ExitStack, *, resume: bool) -> None:
        """The folder is this run's alone as long as it is ``held``: an old run may go only now, as
        this one can start."""
        folder = self.folder
        held.enter_context(alone_in(folder))
        if folder.is_begun and not (resume or self.overwrite):
            message = "another process began a run here in the meantime"
            hint = "give the command again: it goes on from the last checkpoint"
            raise OutputError("run-in-use", message, place=str(folder.path), hint=hint)
        open_run_folder(folder.path, overwrite=self.overwrite)
        if not (resume and folder.tokenizer.is_file()):
            tokenizer.save_folder(folder.path, self.spec.context)

    def _train(
        self, module: RinscForCausalLM, text: TokenizedCorpus, *, resume: bool, shown: bool
    ) -> TrainResult:
        observer = TrainingProgress(self.spec.text, silent=not shown)
        with observer:
            return train_module(
                *(module, self.spec, text, self.config, self.folder),
                observer=observer,
                resume=resume,
                devices=self.devices,
                trackers=self.trackers,
                source=self.source,
                report=observer.took_over,
            )


def vocabulary_of(tokenizer: Path, source: Source | None) -> int:
    """How many tokens the file has, or the source where it fits its tokens; raises DataError."""
    loaded = load_tokenizer(tokenizer)
    if source is not None and source.record.get("tokenizer_sha256") in (None, loaded.sha256):
        return max(loaded.vocab_size, source.spec.vocab_size)
    return loaded.vocab_size


def _spec(
    model: str | Path | ModelSpec, source: Source | None, tokenizer: Path | None
) -> ModelSpec:
    """What ``model`` stands for, with the vocabulary of the tokenizer where it names none."""
    if isinstance(model, ModelSpec):
        return model
    path = Path(model) if str(model).endswith(".toml") else zoo_file(str(model))
    if path is not None:
        return model_spec(path)
    model = str(model)
    if source is not None:
        spec = spec_from(source.spec, parse(model))
    else:
        spec = model_spec(model, preset=DEFAULT_PRESET)
    if tokenizer is None:
        return spec
    return dataclasses.replace(spec, vocab_size=vocabulary_of(tokenizer, source))


def _as_fast_as_possible(
    config: TrainConfig, devices: Devices, *, fast: bool
) -> tuple[TrainConfig, tuple[str, ...]]:
    """What ``fast`` comes to on this device; raises RinscError for a compiler that was asked for
    and does not work."""
    try:
        require_compiler(devices.device)
        compiles = True
    except RinscError:
        if config.compile:
            raise
        compiles = False
    if not fast:
        return config, ()
    precision = fast_precision(devices.device)
    note = f"fast: {precision}, blocks {'compiled' if compiles else 'not compiled'}"
    return dataclasses.replace(config, precision=precision, compile=compiles), (note,)


def _prepared(corpus: Corpus, tokenizer: BytePairTokenizer, *, shown: bool) -> TokenizedCorpus:
    with _preparation(corpus.name, shown=shown) as progress:
        return prepare(corpus, tokenizer, progress=progress)


@contextmanager
def _preparation(name: str, *, shown: bool) -> Iterator[PreparationProgress | None]:
    if not shown:
        yield None
        return
    with PreparationProgress(name) as progress:
        yield progress
