"""Whether a command goes on with the run of a folder, and how a run begins with steps of another.

With the schedule ``wsd`` all runs of one model, seed and text are the same until their learning
rate begins to fall. So a run of 2b steps may take those of a run of b steps up to there. It ends
with the weights of an unbroken one, bit by bit on the CPU. Budgets of b, 2b, 4b and 8b then cost
1.2 times the largest in place of 1.9 times.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path

from rinsc.errors import CheckpointError, OutputError, Problem, RinscError, setting
from rinsc.graph.build import model_differences
from rinsc.spec import ModelSpec, model_spec
from rinsc.spec.reading import is_of
from rinsc.spec.towers import AnySpec
from rinsc.storage.files import (
    cannot_write,
    parse_json,
    read_json,
    read_regular_text,
    write_atomically,
)
from rinsc.training.checkpoint import (
    MANIFEST,
    TRAINER_STATE,
    Checkpoint,
    checkpoints,
    draft_of,
    is_of_its_step,
    is_whole,
    publish,
    start_draft,
)
from rinsc.training.config import TrainConfig, config_from_toml
from rinsc.training.run_folder import (
    RunFolder,
    alone_in,
    already_finished,
    check_run_folder,
    overwriting,
    write_inputs,
)
from rinsc.training.schedules import stable_steps
from rinsc.training.warm_start import Source, recorded_source, same_source

_ELSEWHERE = "choose another folder, or use"


def require_same_run(
    folder: RunFolder,
    spec: AnySpec,
    config: TrainConfig,
    data_record: Mapping[str, object],
    source: Source | None = None,
) -> None:
    """Raises CheckpointError where the run was begun with another model, settings, text or source.

    There is one problem for each setting. A folder in which nothing was begun takes anything.
    """
    model = _begun_with(folder.model_spec, "model")
    if model is not None and not is_of(model, spec):
        raise _of_another_model(model_spec(folder.model_spec), spec, folder.model_spec)
    _require_same_settings(folder.config, config)
    if folder.config.exists():
        difference = difference_of_sources(folder, source)
        if difference is not None:
            hint = f"give the same {setting('start_from', '--from')}, {_ELSEWHERE} {overwriting()}"
            location = str(folder.source)
            raise CheckpointError("other-source", difference, place=location, hint=hint)
    begun, now = _begun_record(folder.data_record), parse_json(json.dumps(data_record))
    for key, what in (("corpus", "text"), ("tokenizer", "tokenizer")):
        if begun is not None and begun.get(key) != now.get(key):
            raise _of_another(what, folder.data_record)


def difference_of_sources(folder: RunFolder, source: Source | None) -> str | None:
    """How the weights that the run was begun with differ from ``source``; None where they are it.

    Raises CheckpointError where the record is damaged.
    """
    return same_source(recorded_source(folder), None if source is None else source.record)


def another_run(
    folder: RunFolder, spec: AnySpec, config: TrainConfig, source: Source | None = None
) -> OutputError:
    """The error of `check_run_folder` for a finished run, with how it differs from this one."""
    problems = [already_finished(folder)]
    try:
        require_same_run(folder, spec, config, _begun_record(folder.data_record) or {}, source)
    except CheckpointError as error:
        problems += [replace(problem, hint=None) for problem in error.problems]
    return OutputError.of(*problems)


def _require_same_settings(path: Path, config: TrainConfig) -> None:
    text = _begun_with(path, "settings")
    if text is None:
        return
    begun = config_from_toml(text, place=str(path))
    problems = [
        Problem(
            code="other-settings",
            message=f"'{key}' is {getattr(config, key)!r}; the run was begun with {old!r}",
            place=f"{path}: {key}",
            hint=f"go on with the settings of that run, {_ELSEWHERE} {overwriting()}",
        )
        for key, old in vars(begun).items()
        if getattr(config, key) != old
    ]
    if problems:
        raise CheckpointError.of(*problems)


def _begun_record(path: Path) -> Mapping[str, object] | None:
    """The record of the text that the run was begun with."""
    text = _begun_with(path, "text")
    try:
        record = None if text is None else dict(parse_json(text))
    except (TypeError, ValueError):
        raise _cannot_read("text", path) from None
    return record


def _begun_with(path: Path, what: str) -> str | None:
    """What a file of the run says; None where there is none."""
    if not path.exists():
        return None
    try:
        return read_regular_text(path)
    except (OSError, UnicodeDecodeError):
        raise _cannot_read(what, path) from None


def _cannot_read(what: str, path: Path) -> CheckpointError:
    message = f"cannot read the {what} that the run was begun with"
    hint = "restore the file, or begin again with another folder"
    return CheckpointError("cannot-read", message, place=str(path), hint=hint)


def _of_another(what: str, path: Path) -> CheckpointError:
    message = f"this run was begun with another {what}"
    hint = f"go on with the {what} of that run, {_ELSEWHERE} {overwriting()}"
    return CheckpointError("foreign-checkpoint", message, place=str(path), hint=hint)


def _of_another_model(begun: AnySpec, now: AnySpec, path: Path) -> CheckpointError:
    message = f"this run was begun with '{begun.text}', and '{now.text}' is another model: "
    if isinstance(begun, ModelSpec) and isinstance(now, ModelSpec):
        message += "; ".join(model_differences(begun, now))
    else:
        message += "its towers, or their dimensions, differ"
    hint = f"go on with the model of that run, {_ELSEWHERE} {overwriting()}"
    return CheckpointError("foreign-checkpoint", message, place=str(path), hint=hint)


# Settings that may differ, as nothing of the steps before the fall depends on them.
FREE = {
    *("steps", "decay_share", "final_learning_rate_share", "keep"),
    *("log_every", "eval_every", "eval_windows", "checkpoint_every"),
}


def begin_from_trunk(
    trunk: str | Path, spec: AnySpec, config: TrainConfig, output: str | Path
) -> int:
    """Begin the run in ``output`` with steps of the run in ``trunk``; returns how many.

    The run then goes on as one that was interrupted: train ``spec`` with ``config`` on the same
    data into ``output``. Raises CheckpointError where the trunk has no such steps, and OutputError
    where something is in ``output`` already.
    """
    source, folder = RunFolder(Path(trunk)), RunFolder(Path(output))
    checkpoint = _last_common(source, spec, config)
    check_run_folder(folder.path)
    with alone_in(folder):
        if folder.is_begun:
            message = "a run was begun here already"
            hint = "go on with it, or choose another folder"
            raise OutputError("run-exists", message, place=str(output), hint=hint)
        # What is cut short from here on is a run without a checkpoint, which begins at step 0.
        write_inputs(folder, spec, config, read_json(source.data_record))
        for name in ("tokenizer", "tokenizer_config", "chat_template", "metrics"):
            _copy(getattr(source, name), getattr(folder, name))
        _copy_checkpoint(checkpoint, folder, config)
    return checkpoint.step


def _last_common(trunk: RunFolder, spec: AnySpec, config: TrainConfig) -> Checkpoint:
    """The last checkpoint of the trunk that is also one of the run; raises CheckpointError."""
    try:
        begun = config_from_toml(read_regular_text(trunk.config))
        same_model = is_of(read_regular_text(trunk.model_spec), spec)
    except (OSError, UnicodeDecodeError, RinscError):
        raise _unfit(trunk, "it is not a run that can be read") from None
    if not same_model:
        other = model_spec(trunk.model_spec)
        raise _unfit(trunk, f"it trains '{other.text}', which is another model")
    for field in fields(TrainConfig):
        old, new = getattr(begun, field.name), getattr(config, field.name)
        if field.name not in FREE and old != new:
            raise _unfit(trunk, f"its '{field.name}' is {old!r}, not {new!r}")
    limits = [stable_steps(begun), stable_steps(config)]
    least = min((limit for limit in limits if limit is not None), default=0)
    if None in limits:
        raise _unfit(trunk, "both need the schedule wsd, a peak, and rounds without a schedule")
    if trunk.source.exists():
        raise _unfit(trunk, "it began with the weights of another run")
    common = [item for item in checkpoints(trunk.path) if item.step <= least]
    for checkpoint in reversed(common):
        if is_whole(checkpoint) and is_of_its_step(checkpoint):
            return checkpoint
    raise _unfit(trunk, f"it has no whole checkpoint of its first {least} steps")


def _unfit(trunk: RunFolder, reason: str) -> CheckpointError:
    message = f"the run cannot be a trunk: {reason}"
    hint = "train without it: the weights are the same"
    return CheckpointError("no-trunk", message, place=str(trunk.path), hint=hint)


def _copy(source: Path, target: Path) -> None:
    if source.is_file():
        write_atomically(target, source.read_bytes())


def _copy_checkpoint(checkpoint: Checkpoint, folder: RunFolder, config: TrainConfig) -> None:
    """As the run itself would have written it."""
    draft = start_draft(folder.path, checkpoint.step)
    try:
        ignored = shutil.ignore_patterns(MANIFEST)
        shutil.copytree(checkpoint.path, draft, dirs_exist_ok=True, ignore=ignored)
        facts = read_json(checkpoint.trainer_state) | {"max_steps": config.steps}
    except OSError as error:
        raise cannot_write(draft_of(folder.path, checkpoint.step), error) from error
    write_atomically(draft / TRAINER_STATE, json.dumps(facts, indent=2) + "\n")
    publish(folder.path, checkpoint.step, config.keep, stable_steps(config))
