"""`rinsc.train`: a run from its settings to its result, in one process or in several.

A run is planned first, which checks everything and writes nothing. Then it runs:

1. a run that is finished already gives its result, so that a repeated command costs nothing;
2. the first process prepares the text, and the others find it prepared;
3. the folder becomes this run's alone, and an old run in it goes;
4. the model trains, from its last checkpoint where there is one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from rinsc.backends.torch.memory import allocation_errors
from rinsc.backends.torch.parallel import Recursed
from rinsc.data.names import note_named
from rinsc.data.pairs import load_caption_tokenizer
from rinsc.data.tokenizer import load_tokenizer
from rinsc.errors import (
    OutputError,
    UsageError,
    did_you_mean,
    plural,
    require_type,
    setting,
)
from rinsc.extras import require, zoo_file
from rinsc.objectives import Data, Objective, Request, objective, objective_of_data
from rinsc.progress import Progress, ShownProgress, SilentProgress
from rinsc.scalars import exact, rounded_flops
from rinsc.spec import ModelSpec, TowersSpec, model_spec
from rinsc.spec.towers import AnySpec, like, paired_towers
from rinsc.syntax import parse
from rinsc.syntax.parser import has_towers
from rinsc.training.budget import Budget, Settings, Spending, check_settings, run_config, spending
from rinsc.training.config import TrainConfig
from rinsc.training.devices import (
    Devices,
    check_devices,
    check_fits,
    fast_precision,
    fast_settings,
    find_devices,
    require_compiler,
)
from rinsc.training.healing import Teacher, check_tokens, healing_report, open_teacher
from rinsc.training.metrics import TrainingProgress
from rinsc.training.opening import finished_run
from rinsc.training.result import Trained, TrainResult, finished_result
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

DEFAULT_PRESET, DEFAULT_TOWERS = "tiny", "siglip-tiny"
TRACKERS = ("tensorboard", "trackio", "wandb")

DeviceName = Literal["auto", "cpu", "cuda"]


def train(
    model: str | Path | AnySpec,
    *,
    data: str,
    output: str | Path,
    budget: str | Budget | None = None,
    settings: Settings = None,
    match: str | AnySpec | None = None,
    start_from: str | Path | None = None,
    tokenizer: str | Path | None = None,
    device: DeviceName = "auto",
    shard: bool = False,
    recursed: Recursed = "pin",
    fast: bool = False,
    trackers: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Trained:
    """Train a model on ``data`` into the folder ``output``, as ``rinsc train`` does.

    A ``model`` that is a signature has the dimensions of the preset tiny, or of what it starts
    from, and as many tokens as the ``tokenizer`` that is given. ``settings`` is a `TrainConfig`, or
    some of its fields by name: sequences are then as long as the context, and the warm-up is a
    tenth of the run. ``budget`` is as ``"1e18"`` FLOPs, ``"6e9tokens"`` or ``"1000steps"``; without
    one the steps are those of the settings. ``match`` names a baseline whose training FLOPs this
    run may spend. ``progress`` is told how it goes, by default on standard error or below the cell
    of a notebook. To resume an interrupted run, call it again.

    Raises RinscError for whatever does not fit, before anything is written, and `StoppedError`
    after a signal, with a checkpoint written.
    """
    require_type("data", data, str, "data='plays'")
    require_type("budget", budget, (str, Budget), "budget='1000steps'", optional=True)
    kinds = (TrainConfig, Mapping)
    require_type("settings", settings, kinds, "settings={'batch_sequences': 8}", optional=True)
    folder = RunFolder(Path(output))
    source = None
    if start_from is None and _heal_of(settings) and isinstance(model, str | Path):
        start_from = model  # a retrofit, whose weights are what is healed
    if start_from is not None:
        source = open_source(str(start_from), folder, anew=overwrite)
    trained_for = objective(_objective_name(settings, data))
    chosen = trained_for.dimensions(data) if isinstance(model, str) else {}
    spec = _spec(model, source, None if tokenizer is None else Path(tokenizer), chosen)
    if not isinstance(settings, TrainConfig):
        settings = {**(settings or {}), "objective": trained_for.name}
    baseline = like(spec, match) if isinstance(match, str) else match
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


def planned_run(
    spec: AnySpec,
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

    ``fast`` takes bf16 and compiled blocks where the run ends sooner with them.
    """
    folder, notes = RunFolder(output), tuple[str, ...]()
    if source is not None and isinstance(spec, TowersSpec):
        message = "towers begin with fresh weights: there is no taking over of those of a run"
        raise UsageError("usage", message, hint=f"leave {setting('start_from', '--from')} out")
    if tokenizer is not None and config.objective == "classify":
        message = f"the objective {config.objective} reads no text, and needs no tokenizer"
        raise UsageError("usage", message, hint=f"leave {setting('tokenizer')} out")
    teacher = open_teacher(config, spec)
    if teacher is not None and source is None:
        message = f"{setting('heal')} is about a model with the weights of a retrofit"
        hint = f"name it: {setting('start_from', '--from')}"
        raise UsageError("usage", message, hint=hint)
    with devices.lost_processes():
        if not fast:
            if config.compile:
                require_compiler(devices.device)
            check_devices(spec, config, devices)
        for name in trackers:
            if name not in TRACKERS:
                hint = did_you_mean(name, TRACKERS)
                raise UsageError("usage", f"'{name}' is not a tracker", hint=hint)
            require(name)
        if fast:
            check_settings(spec, config)
            check_devices(
                spec, dataclasses.replace(config, precision=fast_precision(devices.device)), devices
            )
            config, note = fast_settings(spec, config, devices, folder, anew=overwrite)
            check_devices(spec, config, devices)
            notes = (note,)
    return PlannedRun(
        *(spec, config, data, folder, devices, source, tokenizer, teacher),
        trackers=tuple(trackers),
        overwrite=overwrite,
        notes=notes,
    )


@dataclass(frozen=True)
class PlannedRun:
    """A run of which all is known but its text; ``notes`` say what ``fast`` came to."""

    spec: AnySpec
    config: TrainConfig
    data: str
    folder: RunFolder
    devices: Devices
    source: Source | None
    tokenizer: Path | None
    teacher: Teacher | None
    trackers: tuple[str, ...]
    overwrite: bool
    notes: tuple[str, ...]

    @property
    def objective(self) -> Objective:
        return objective(self.config.objective)

    @property
    def spending(self) -> Spending:
        """What the run will have spent, in all three units."""
        return spending(self.config, self.spec)

    @property
    def text(self) -> str:
        """What is about to be spent, in all three units."""
        devices, plan = self.devices, self.spending
        over = f" over {devices.count} processes" if devices.count > 1 else ""
        count, unit = plan.tokens, "token"
        if isinstance(self.spec, TowersSpec):
            count, unit = plan.steps * self.config.batch_sequences, "pair"
        return (
            f"{self.spec.text} on {self.data}{over}: "
            f"{plural(plan.steps, 'step', exact(plan.steps))}, "
            f"{plural(count, unit, exact(count))}, "
            f"{rounded_flops(plan.training_flops)} of training"
            + ("" if plan.is_exact else " in expectation")
        )

    def run(self, *, progress: Progress | None = None) -> Trained:
        """Train, or go on, or find the run finished; every process calls it."""
        devices = self.devices
        progress = (progress or ShownProgress()) if devices.is_first else SilentProgress()
        if devices.is_first:
            note_named(self.data)
        with devices.lost_processes(), ExitStack() as locks:
            result = None if self.overwrite else devices.on_first(self._finished)
            was_finished = result is not None
            if result is None:
                check_run_folder(self.folder.path, overwrite=self.overwrite)
                begun = devices.on_first(lambda: self.folder.is_begun)
                resume = begun and not self.overwrite
                data, state = self._data(self._request(progress, resume=resume))
                module = self._fresh_module()
                devices.on_first(lambda: self._take_over(state, locks, resume=resume))
                result = self._train(module, data, progress, resume=resume)
            if self.teacher is not None and not (was_finished and self.folder.healing.exists()):
                opened, _ = self._data(self._request(progress, resume=True))
                devices.on_first(lambda: self._report_healing(opened, progress))
        return Trained(self.folder.path, self.spec, self.config, result, was_finished)

    def _finished(self) -> TrainResult | None:
        """The result of this very run; raises OutputError where another one is finished here."""
        folder, tokenizer = self.folder, None
        if self.tokenizer is not None:
            tokenizer = self._tokenizer_digest(self.tokenizer)
        result = finished_result(folder, self.spec, self.config, self.data, tokenizer, self.source)
        if result is None and folder.is_finished:
            raise another_run(folder, self.spec, self.config, self.source)
        return result

    def _tokenizer_digest(self, path: Path) -> str:
        if isinstance(self.spec, TowersSpec):
            _, text = paired_towers(self.spec)
            return load_caption_tokenizer(path, text.context).sha256
        return load_tokenizer(path, begun_tokenizer(self.folder)).sha256

    def _data(self, request: Request) -> tuple[Data, str]:
        """The data, once everything fits, and what every process opens it with."""
        trained_for = self.objective

        def first() -> str:
            state = trained_for.prepare(request)
            data = trained_for.open(request, state)
            if request.resume:
                require_same_run(self.folder, self.spec, self.config, data.record, self.source)
            elif self.source is not None and isinstance(self.spec, ModelSpec):
                check_source(self.source.spec, self.spec, self.source.path)
            if self.teacher is not None:
                check_tokens(self.teacher, data.record)
            check_fits(self.spec, data, self.config, self.devices)
            return state

        state = self.devices.on_first(first)
        return trained_for.open(request, state), state

    def _request(self, progress: Progress, *, resume: bool) -> Request:
        folder, source, tokenizer = self.folder, self.source, self.tokenizer
        if tokenizer is None and resume and folder.data_record.exists():
            tokenizer = folder.tokenizer if folder.tokenizer.exists() else None
        run = None if source is None else source.run
        return Request(
            *(self.data, self.spec, tokenizer),
            begun=begun_tokenizer(folder) if resume else None,
            borrowed=None if run is None else run.tokenizer,
            resume=resume,
            progress=progress,
        )

    def _fresh_module(self) -> Any:
        torch.manual_seed(self.config.seed)
        with allocation_errors():
            return self.objective.module(self.spec, self.devices.device)

    def _take_over(self, state: str, locks: ExitStack, *, resume: bool) -> None:
        """The folder is this run's alone until ``locks`` are let go: an old run may go only now, as
        this one can start."""
        folder = self.folder
        locks.enter_context(alone_in(folder))
        if folder.is_begun and not (resume or self.overwrite):
            message = "another process began a run here in the meantime"
            hint = "give the command again: it goes on from the last checkpoint"
            raise OutputError("run-in-use", message, place=str(folder.path), hint=hint)
        open_run_folder(folder.path, overwrite=self.overwrite)
        if not (resume and folder.tokenizer.is_file()):
            self.objective.save(state, folder.path, self.spec)

    def _report_healing(self, data: Data, progress: Progress) -> None:
        """What became of each number of rounds, in the run folder and told to the user."""
        if self.teacher is None or self.source is None:
            return
        held_out: Any = self.objective.held_out(data, self.config)
        with progress.task("measuring what healing changed"):
            report = healing_report(
                *(finished_run(self.folder.path), self.source, self.teacher, held_out),
                self.devices.device,
            )
        report.save(self.folder.healing)
        for line in report.lines:
            progress.line(line)

    def _train(self, module: Any, data: Data, progress: Progress, *, resume: bool) -> TrainResult:
        with TrainingProgress(self.spec.text, progress) as observer:
            return train_module(
                *(module, self.spec, data, self.config, self.folder),
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


def _heal_of(settings: Settings) -> str:
    own = settings.heal if isinstance(settings, TrainConfig) else (settings or {}).get("heal", "")
    return str(own)


def _objective_name(settings: Settings, data: str) -> str:
    if isinstance(settings, TrainConfig):
        return settings.objective
    named = (settings or {}).get("objective", objective_of_data(data))
    return TrainConfig(objective=named).objective


def _spec(
    model: str | Path | AnySpec,
    source: Source | None,
    tokenizer: Path | None,
    dimensions: Mapping[str, Any],
) -> AnySpec:
    """What ``model`` stands for, with the vocabulary of the tokenizer where it names none."""
    if isinstance(model, ModelSpec | TowersSpec):
        return model
    if source is not None and str(model) == source.path:
        return source.spec
    path = Path(model) if str(model).endswith(".toml") else zoo_file(str(model))
    if path is not None:
        return model_spec(path)
    model = str(model)
    spec: AnySpec
    if has_towers(model):
        spec = model_spec(model, preset=DEFAULT_TOWERS, **dimensions)
    elif source is not None:
        spec = spec_from(source.spec, parse(model))
    else:
        spec = model_spec(model, preset=DEFAULT_PRESET, **dimensions)
    return spec if tokenizer is None else with_vocabulary(spec, tokenizer, source)


def with_vocabulary(spec: AnySpec, tokenizer: Path, source: Source | None) -> AnySpec:
    """The spec with as many tokens as the tokenizer has, of two towers that of texts; raises
    DataError."""
    if isinstance(spec, ModelSpec):
        return dataclasses.replace(spec, vocab_size=vocabulary_of(tokenizer, source))
    if spec.pairing is None:
        return spec
    _, text = paired_towers(spec)
    count = load_caption_tokenizer(tokenizer, text.context).vocab_size
    sized = dataclasses.replace(text, vocab_size=count)
    return TowersSpec(spec.signature, tuple(sized if one is text else one for one in spec.specs))
