"""Whether a command goes on with the run of a folder, and what differs where it does not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rinsc.errors import CheckpointError, OutputError, Problem, setting
from rinsc.graph.build import model_differences
from rinsc.spec import ModelSpec, model_spec
from rinsc.spec.reading import is_of
from rinsc.storage.files import parse_json, read_regular_text
from rinsc.training.config import TrainConfig, config_from_toml
from rinsc.training.run_folder import RunFolder, already_finished, overwriting
from rinsc.training.warm_start import Source, recorded_source, same_source

_ELSEWHERE = "choose another folder, or use"


def require_same_run(
    folder: RunFolder,
    spec: ModelSpec,
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
    folder: RunFolder, spec: ModelSpec, config: TrainConfig, source: Source | None = None
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


def _of_another_model(begun: ModelSpec, now: ModelSpec, path: Path) -> CheckpointError:
    message = f"this run was begun with '{begun.text}', and '{now.text}' is another model: "
    message += "; ".join(model_differences(begun, now))
    hint = f"go on with the model of that run, {_ELSEWHERE} {overwriting()}"
    return CheckpointError("foreign-checkpoint", message, place=str(path), hint=hint)
