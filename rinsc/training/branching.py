"""Several budgets from one trunk: a run begins with the first steps of a shorter one.

With the schedule ``wsd`` all runs of one model, seed and text are the same until their learning
rate begins to fall. So a run of 2b steps may take those of a run of b steps up to there. It ends
with the weights of an unbroken one, bit by bit on the CPU. Budgets of b, 2b, 4b and 8b then cost
1.2 times the largest in place of 1.9 times.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path

from rinsc.errors import CheckpointError, OutputError, RinscError
from rinsc.spec import ModelSpec, model_spec
from rinsc.spec.reading import is_of
from rinsc.storage.files import cannot_write, read_json, read_regular_text, write_atomically
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
from rinsc.training.run_folder import RunFolder, alone_in, check_run_folder, write_inputs
from rinsc.training.schedules import stable_steps

# Settings that may differ, as nothing of the steps before the fall depends on them.
FREE = {
    *("steps", "decay_share", "final_learning_rate_share", "keep"),
    *("log_every", "eval_every", "eval_windows", "checkpoint_every"),
}


def begin_from_trunk(
    trunk: str | Path, spec: ModelSpec, config: TrainConfig, output: str | Path
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


def _last_common(trunk: RunFolder, spec: ModelSpec, config: TrainConfig) -> Checkpoint:
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
