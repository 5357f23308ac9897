"""What is measured while training, one JSON object a line; the file outlives a crash."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, get_args

from rinsc.errors import DataError, plural
from rinsc.objectives import OBJECTIVES, Part, figure
from rinsc.progress import Observer as TaskObserver
from rinsc.progress import Progress
from rinsc.storage.files import cannot_write, parse_json, read_regular, write_atomically
from rinsc.training.config import TrainConfig

if TYPE_CHECKING:
    from rinsc.training.result import TrainResult
    from rinsc.training.warm_start import Source, Takeover

PROJECT = "rinsc"  # under which W&B (unless WANDB_PROJECT is set) and trackio keep runs

_FIGURES = frozenset(row.figure for row in OBJECTIVES.values())


@dataclass(frozen=True)
class Metrics:
    """The state of a run after ``step`` steps.

    ``loss_nats`` is the mean over the targets of that step's batch. ``quality`` is the main figure
    of the objective on held-out data, where it was evaluated, ``figure`` its name, and ``held_out``
    says whether it is of a sample or of the whole. ``seconds`` and ``tokens_per_second`` are of
    training alone, evaluation excluded. ``rounds`` are those of that step by repeat, where they
    change. ``gradient_norm`` is before clipping. ``model_flops_utilization`` (MFU) is training
    FLOPs per second over the measured peak of the device's matrix products.
    """

    step: int
    tokens: int
    training_flops: int
    loss_nats: float
    learning_rate: float
    tokens_per_second: float
    seconds: float
    quality: float | None = None
    rounds: Mapping[str, int] | None = None
    gradient_norm: float | None = None
    model_flops_utilization: float | None = None
    held_out: Part | None = None
    figure: str = "bits_per_byte"

    @property
    def bits_per_byte(self) -> float | None:
        """The quality of a run on text, where it was evaluated."""
        return self.quality if self.figure == "bits_per_byte" else None

    def to_json(self) -> str:
        """The line of the file, in which the quality is called by the name of its figure."""
        values = dataclasses.asdict(self)
        name = values.pop("figure")
        values = {name if key == "quality" else key: value for key, value in values.items()}
        return json.dumps({key: value for key, value in values.items() if value is not None})


class MetricsLog:
    """Appends metrics to a file, each line flushed, and tells the ``trackers``; a context manager.
    Raises OutputError.

    One that is ``silent`` writes nothing: of several processes the first one does.
    """

    def __init__(self, path: Path, trackers: Sequence[Any] = (), *, silent: bool = False) -> None:
        self._path, self._trackers = path, trackers
        try:
            target = Path(os.devnull) if silent else path
            self._file: IO[str] = target.open("a", encoding="utf-8")
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, metrics: Metrics) -> None:
        try:
            self._file.write(metrics.to_json() + "\n")
            self._file.flush()
        except OSError as error:
            raise cannot_write(self._path, error) from error
        for tracker in self._trackers:
            tracker.log(_for_trackers(metrics), step=metrics.step)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # every line was flushed: what cannot be written was told then
            self._file.close()
        for tracker in self._trackers:
            tracker.finish()


def open_trackers(names: Sequence[str], folder: Path, facts: Mapping[str, object]) -> list[Any]:
    """The trackers of these names for the run in ``folder``; ``facts`` say what it is."""
    if not names:
        return []
    from accelerate import PartialState, tracking

    PartialState()  # trackers ask it which process they are in
    makers: Mapping[str, Callable[[], Any]] = {
        "tensorboard": lambda: tracking.TensorBoardTracker("tensorboard", folder),
        "trackio": lambda: tracking.TrackioTracker(PROJECT, name=folder.name),
        "wandb": lambda: tracking.WandBTracker(
            os.environ.get("WANDB_PROJECT", PROJECT), name=folder.name
        ),
    }
    trackers = [makers[name]() for name in names]
    shown = {
        key: value if type(value) in (int, float) else str(value) for key, value in facts.items()
    }
    for tracker in trackers:
        tracker.start()
        tracker.store_init_configuration(shown)
    return trackers


def _for_trackers(metrics: Metrics) -> dict[str, float]:
    """The numbers of the metrics file, some by the names that transformers' Trainer gives them."""
    values = {
        "loss": metrics.loss_nats,
        "grad_norm": metrics.gradient_norm,
        "learning_rate": metrics.learning_rate,
        metrics.figure: metrics.quality,
        "training_flops": float(metrics.training_flops),
        "tokens_per_second": metrics.tokens_per_second,
        "model_flops_utilization": metrics.model_flops_utilization,
    }
    return {f"train/{name}": value for name, value in values.items() if value is not None}


def read_metrics(path: Path) -> list[Metrics]:
    """The metrics of a run; lines that a crash or a disk damaged are skipped.

    Raises DataError where the file cannot be read, or holds lines and none of metrics.
    """
    try:
        lines = read_regular(path).split(b"\n")
    except OSError as error:
        raise _bad(path, "cannot read the metrics") from error
    every = [metrics for line in lines if (metrics := metrics_from_json(line)) is not None]
    if not every and any(line.strip() for line in lines[:-1]):
        raise _bad(path, "this is not a file of training metrics")
    return every


def metrics_from_json(line: bytes | str) -> Metrics | None:
    """The metrics of one line; None for what is damaged. Keys of later versions are skipped."""
    try:
        values = parse_json(line)
        known = {key: value for key, value in values.items() if key in _KINDS}
        if all(_KINDS[key](value) for key, value in known.items()):
            for name in _FIGURES & known.keys():
                known |= {"quality": known.pop(name), "figure": name}
            return Metrics(**known)
    except (ValueError, TypeError, AttributeError):  # UnicodeDecodeError is a ValueError
        pass
    return None


def resume_metrics(path: Path, step: int, last: Metrics | None) -> None:
    """Forget what was measured after ``step``, which a resumed run measures again.

    ``last`` is what its checkpoint knows of ``step``; a line that is damaged is put back from it.
    Whatever the file holds, it does not keep the run from going on.
    """
    try:
        earlier = [metrics for metrics in read_metrics(path) if metrics.step <= step]
    except DataError:
        earlier = []
    if last is not None and not any(metrics.step == last.step for metrics in earlier):
        earlier.append(last)
    write_atomically(path, "".join(metrics.to_json() + "\n" for metrics in earlier))


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: object) -> bool:
    return type(value) in (int, float)


def _are_rounds(value: object) -> bool:
    return isinstance(value, dict) and all(map(_is_count, value.values()))


_KINDS: Mapping[str, Callable[[object], bool]] = {
    **dict.fromkeys(("step", "tokens", "training_flops"), _is_count),
    **dict.fromkeys(("loss_nats", "learning_rate", "tokens_per_second", "seconds"), _is_number),
    **dict.fromkeys((*_FIGURES, "gradient_norm", "model_flops_utilization"), _is_number),
    "rounds": _are_rounds,
    "held_out": lambda value: value in get_args(Part),
}


def _bad(path: Path, message: str) -> DataError:
    hint = "name the metrics.jsonl of a run"
    return DataError(code="bad-metrics", message=message, place=str(path), hint=hint)


class Observer(Protocol):
    """Is told how training goes on, for a progress bar or a tracker."""

    def started(self, config: TrainConfig, step: int) -> None: ...

    def stepped(self, metrics: Metrics) -> None: ...

    def finished(self, result: TrainResult) -> None: ...


def is_due(config: TrainConfig, metrics: Metrics) -> bool:
    """Whether a step is written down: every few, and those with an evaluation."""
    return metrics.step % config.log_every == 0 or metrics.quality is not None


class TrainingProgress:
    """Tells one run to a `Progress`, as one task; an observer of training, and a context manager.

    The task has steps, loss, the last quality and tokens per second as its state.
    """

    def __init__(self, name: str, progress: Progress) -> None:
        self._name, self._progress = name, progress
        self._steps, self._quality = 1, ""
        self._task = ExitStack()
        self._observe: TaskObserver = lambda done, state="": None

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._task.close()

    def started(self, config: TrainConfig, step: int) -> None:
        self._steps = config.steps
        if step:
            self._line(f"goes on after step {step}")
        self._observe = self._task.enter_context(self._progress.task(self._name))

    def took_over(self, source: Source, takeover: Takeover) -> None:
        """What a run that begins with another's weights has of them."""
        count = source.record["step"]
        history = f" after {plural(count, 'step', f'{count:,}')}"
        if not source.record.get("is_training_known", True):
            history = ", of whose training not all is known"
        self._line(f"begins with the weights of {source.path}{history}")
        for line in takeover.lines():
            self._line(line)

    def stepped(self, metrics: Metrics) -> None:
        if metrics.quality is not None:
            sample = "" if metrics.held_out is None else f" ({metrics.held_out})"
            head = figure(metrics.figure).head
            self._quality = f"{metrics.quality:.3f} {head}{sample} · "
        state = f"step {metrics.step}/{self._steps} · loss {metrics.loss_nats:.3f} · "
        state += f"{self._quality}{metrics.tokens_per_second:,.0f} tokens/s"
        self._observe(metrics.step / self._steps, state)
        if metrics.quality is not None:
            self._line(state)

    def finished(self, result: TrainResult) -> None:
        self._task.close()
        quality = f"{result.figure_words} on {result.held_out_words}"
        self._line(f"done · {quality} · {result.seconds:.0f} s")

    def _line(self, text: str) -> None:
        self._progress.line(f"{self._name} · {text}")
