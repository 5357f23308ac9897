"""What lies in a folder, opened: a finished run, a checkpoint, a model that transformers saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rinsc.cost.counts import checked_sequence
from rinsc.graph import BlockGraph, TowersGraph, build_graph
from rinsc.layers.kind import takes_pictures
from rinsc.objectives import OBJECTIVES
from rinsc.spec import model_spec
from rinsc.storage.files import read_regular_text
from rinsc.training.checkpoint import (
    Checkpoint,
    checkpoints,
    is_checkpoint_name,
    is_of_its_step,
    is_whole,
    latest_whole,
)
from rinsc.training.config import TrainConfig, config_from_toml
from rinsc.training.finished import (
    FinishedRun,
    SavedModel,
    SavedTowers,
    TowersRun,
    read_record,
    run_error,
)
from rinsc.training.run_folder import RunFolder, check_files
from rinsc.training.saved_model import (
    folder_spec,
    is_saved_model,
    picture_patches,
    refuse_adapter,
    saved_model_hint,
)
from rinsc.training.schedules import Depths


def _saved_model(folder: RunFolder) -> SavedModel:
    if not folder.weights.is_file():
        hint = f"write the weights there: model.save_pretrained('{folder.path}')"
        message = "the folder has a config.json and no model.safetensors"
        raise run_error("no-weights", message, folder.path, hint)
    graph: Any = build_graph(folder_spec(folder))
    if isinstance(graph, TowersGraph):
        OBJECTIVES["sigmoid_pairs"].check_model(graph.spec)
        pairs = TrainConfig(objective="sigmoid_pairs")
        return SavedTowers(folder, graph, pairs, steps=0, training_flops=0)
    if takes_pictures(graph.spec):
        patches = picture_patches(folder, graph.spec)
        config = TrainConfig(objective="classify", sequence_length=patches)
    else:
        OBJECTIVES["next_token"].check_model(graph.spec)
        config = TrainConfig(sequence_length=graph.spec.context)
    return SavedModel(folder, graph, config, steps=0, training_flops=0)


def finished_run(path: Path) -> FinishedRun:
    """The run in a folder.

    Raises CheckpointError for what is none, or is not finished, and SpecError for settings that
    cannot be those of its model.
    """
    folder = RunFolder(path)
    if not folder.model_spec.is_file():
        hint = saved_model_hint(path)
        raise run_error("not-a-run", "this is not the folder of a training run", path, hint)
    if not folder.is_finished:
        hint = "it has no whole checkpoint; give its rinsc train command again"
        raise run_error("unfinished-run", "this run has not been finished", path, hint)
    graph, config = _inputs(folder)
    result = read_record(folder.result)
    numbers = [result.get(key) for key in ("steps", "training_flops")]
    if not all(type(number) is int and number > 0 for number in numbers):
        message = "this is not the result of a training run"
        raise run_error("bad-result", message, folder.result, "restore the file")
    steps, training_flops = (int(str(number)) for number in numbers)
    check_files(folder, *(file for file in folder.compared if file != folder.tokenizer))
    return _run_of(folder, graph, config, steps, training_flops + _flops_before(folder))


def _run_of(
    folder: RunFolder,
    graph: BlockGraph | TowersGraph,
    config: TrainConfig,
    steps: int,
    training_flops: int,
    checkpoint: Checkpoint | None = None,
) -> FinishedRun:
    if isinstance(graph, TowersGraph):
        return TowersRun(folder, graph, config, steps, training_flops, checkpoint)
    return FinishedRun(folder, graph, config, steps, training_flops, checkpoint)


def trained_run(path: Path) -> FinishedRun:
    """What there is to run in ``path``: a finished run, a checkpoint, an unfinished run, or a
    model that transformers has saved.

    Of an unfinished run it is the latest whole checkpoint. Raises what `finished_run` raises, and
    CheckpointError for a checkpoint that is damaged.
    """
    if is_checkpoint_name(path.name) and not RunFolder(path).model_spec.is_file():
        folder = RunFolder(path.parent)
        by_name = {checkpoint.path.name: checkpoint for checkpoint in checkpoints(folder.path)}
        checkpoint = by_name.get(path.name)
        if not folder.model_spec.is_file() or checkpoint is None:
            hint = "name a run folder, or a checkpoint inside one"
            raise run_error("not-a-run", "this is no checkpoint of a training run", path, hint)
        if not (is_whole(checkpoint) and is_of_its_step(checkpoint)):
            hint = "take another checkpoint of the run"
            raise run_error("damaged-checkpoint", "the checkpoint is damaged", path, hint)
        return _at_checkpoint(folder, checkpoint)
    folder = RunFolder(path)
    refuse_adapter(folder)
    if is_saved_model(folder):
        return _saved_model(folder)
    if folder.model_spec.is_file() and not folder.is_finished:
        latest, _ = latest_whole(path, is_of_its_step)
        if latest is not None:
            return _at_checkpoint(folder, latest)
    return finished_run(path)


def _at_checkpoint(folder: RunFolder, checkpoint: Checkpoint) -> FinishedRun:
    graph, config = _inputs(folder)
    spent = Depths(graph.spec, config).flops_until(checkpoint.step) + _flops_before(folder)
    return _run_of(folder, graph, config, checkpoint.step, spent, checkpoint)


def _inputs(folder: RunFolder) -> tuple[Any, TrainConfig]:
    """The graph and the settings of a run; raises SpecError where they do not fit, and
    CheckpointError."""
    graph: Any = build_graph(model_spec(folder.model_spec))
    try:
        text = read_regular_text(folder.config)
    except (OSError, UnicodeDecodeError):
        message = "cannot read the settings of the run"
        raise run_error("cannot-read", message, folder.config, "restore the file") from None
    config = config_from_toml(text, place=str(folder.config))
    OBJECTIVES[config.objective].check_model(graph.spec)
    if not isinstance(graph, TowersGraph):
        checked_sequence(graph.spec, config.sequence_length)
    return graph, config


def _flops_before(folder: RunFolder) -> int:
    """Training FLOPs in the weights that the run began with."""
    if not folder.source.exists():
        return 0
    spent = read_record(folder.source).get("training_flops")
    if not isinstance(spent, int) or isinstance(spent, bool) or spent < 0:
        message = "the record of the weights that the run began with is damaged"
        raise run_error("cannot-read", message, folder.source, "restore the file")
    return spent
