"""Tasks of lm-evaluation-harness on a model at several numbers of rounds."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from rinsc.backends.hf import RinscForCausalLM, causal_lm
from rinsc.backends.torch.memory import allocation_errors
from rinsc.data.tokenizer import BytePairTokenizer
from rinsc.errors import DataError, RinscError, UsageError, nearest, setting
from rinsc.extras import require
from rinsc.graph import Rounds
from rinsc.training.finished import FinishedRun

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

Tasks: TypeAlias = "TaskManager"  # the harness's own, known only where it is installed

BATCH = 16  # sequences at once
CONNECTIONS = ("ConnectionError", "OfflineModeIsEnabled", "DatasetNotFoundError", "ProxyError")


@dataclass(frozen=True)
class TaskScore:
    """One metric of a task, as the harness names and computes it."""

    task: str
    metric: str
    value: float
    stderr: float | None


def find_tasks(
    names: Sequence[str], tokenizer: BytePairTokenizer, include: Path | None = None
) -> Tasks:
    """The harness's tasks with those of the folder ``include``, the named ones loaded once.

    Raises MissingExtraError without the extra ``eval``, UsageError for a name that no task has,
    and DataError for a task that cannot be loaded, as one whose data set cannot be fetched, and for
    one that generates text where the ``tokenizer`` has no token to end it with.
    """
    require("lm_eval")
    if include is not None and not include.is_dir():
        message, hint = "there is no such folder of tasks", "name a folder with YAML files of tasks"
        raise UsageError("no-tasks", message, place=str(include), hint=hint)
    with _quiet():
        manager = _manager(names, include)
    for name in names:
        if name not in manager.all_tasks:
            close = nearest(name, manager.all_tasks)
            hint = f"name the folder of its YAML by {setting('include')}"
            hint = f"did you mean '{close}'?" if close else hint
            message = f"'{name}' is not a task of lm-evaluation-harness"
            raise UsageError("unknown-task", message, hint=hint)
        with _quiet(), _task_errors(name):
            loaded = manager.load([name])["tasks"].values()
        if tokenizer.end_of_document is None and any(map(_generates, loaded)):
            message = f"the task '{name}' generates text, and the tokenizer has no token to end it"
            hint = "use tasks of likelihoods, or train with a tokenizer that has <|endoftext|>"
            raise DataError("no-end-token", message, hint=hint)
    return manager


def trained_model(run: FinishedRun, device: torch.device) -> RinscForCausalLM:
    """The model of a run as one of transformers; raises what `FinishedRun.model` raises."""
    weights = run.model(device).state_dict()
    with allocation_errors():
        model = causal_lm(run.graph, device=device)
        model.model.load_state_dict(weights)
    return model


def score_tasks(
    model: RinscForCausalLM,
    tokenizer: BytePairTokenizer,
    names: Sequence[str],
    manager: Tasks,
    *,
    rounds: Rounds = None,
    limit: int | None = None,
) -> tuple[TaskScore, ...]:
    """Every metric of the tasks at some rounds, on the first ``limit`` examples of each.

    The harness's own class for models of transformers does the work; the model's config has the
    rounds for as long as it takes. Raises DataError where a task does not work.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    with _quiet(), _at_rounds(model, rounds), _task_errors(", ".join(names)):
        harness = HFLM(
            pretrained=model,
            tokenizer=_fast_tokenizer(tokenizer),
            batch_size=BATCH,
            prefix_token_id=_prefix_token(tokenizer),
        )
        answer = simple_evaluate(
            model=harness,
            tasks=list(names),
            task_manager=manager,
            limit=limit,
            log_samples=False,
        )
    return tuple(_scores(answer["results"]))


def _fast_tokenizer(tokenizer: BytePairTokenizer) -> PreTrainedTokenizerFast:
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(tokenizer.to_json())
    )
    if tokenizer.end_of_document is not None:
        fast.eos_token = fast.convert_ids_to_tokens(tokenizer.end_of_document)
    return fast


def _prefix_token(tokenizer: BytePairTokenizer) -> int:
    """What stands before a text without a context: the end of another text, or of a line.

    Raises DataError for a tokenizer that has neither.
    """
    if tokenizer.end_of_document is not None:
        return tokenizer.end_of_document
    line_end = tokenizer.encode("\n")
    if not len(line_end):
        message = "the tokenizer has no token to put before a text, for an end of text or of line"
        hint = "train with a tokenizer that has <|endoftext|>"
        raise DataError("no-end-token", message, hint=hint)
    return int(line_end[0])


def _generates(task: Any) -> bool:
    return str(task.get_config("output_type")) == "generate_until"


def _manager(names: Sequence[str], include: Path | None) -> Tasks:
    """The tasks of the folder where they are enough: the harness's thousands take long to find."""
    from lm_eval.tasks import TaskManager

    if include is not None:
        own = TaskManager(include_path=str(include), include_defaults=False)
        if set(names) <= set(own.all_subtasks):
            return own
    return TaskManager(include_path=None if include is None else str(include))


def _scores(results: Mapping[str, Mapping[str, Any]]) -> Iterator[TaskScore]:
    """The harness's results, whose keys are as ``acc,none`` and ``acc_stderr,none``."""
    for task, figures in results.items():
        for key, value in figures.items():
            metric, _, which = key.partition(",")
            if not which or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            stderr = figures.get(f"{metric}_stderr,{which}")
            error = float(stderr) if isinstance(stderr, int | float) else None
            name = metric if which == "none" else f"{metric} ({which})"
            yield TaskScore(task, name, float(value), error)


@contextlib.contextmanager
def _at_rounds(model: RinscForCausalLM, rounds: Rounds) -> Iterator[None]:
    before = model.config.rounds
    model.config.rounds = dict(rounds) if isinstance(rounds, Mapping) else rounds
    try:
        yield
    finally:
        model.config.rounds = before


@contextlib.contextmanager
def _task_errors(name: str) -> Iterator[None]:
    """A task is other people's YAML and code, and its data may be anywhere: all can go wrong."""
    try:
        yield
    except (RinscError, MemoryError):
        raise
    except Exception as error:
        message = str(error).strip().partition("\n")[0][:200]
        reason = type(error).__name__ + (f": {message}" if message else "")
        if any(kind.__name__ in CONNECTIONS for kind in type(error).__mro__):
            message = f"the data set of the task '{name}' cannot be fetched: {reason}"
            hint = "fetch it where there is a network, or use a task with files of its own"
        else:
            message, hint = f"the task '{name}' fails: {reason}", "check its YAML and its data"
            if isinstance(error, AssertionError):  # the harness's, of an answer beyond the context
                hint += ", whose answers have to fit into the model's context"
        raise DataError("task-failed", message, hint=hint) from None


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' own messages; their bars stay where there is a terminal."""
    loggers = [
        logging.getLogger(name)
        for name in ("lm_eval", "huggingface_hub", "datasets", "transformers")
    ]
    levels = [logger.level for logger in loggers]
    shown = sys.stderr if sys.stderr.isatty() else io.StringIO()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stderr(shown):
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
