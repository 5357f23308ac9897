"""Finished runs at other rounds than those that their result is of, measured once and kept.

`measure_study_rounds` loads the weights of each run that has repeats, and measures it again: at one
round of every repeat, two, and so on to one more than it was trained with. A sample of the windows
of its result is enough, as they are compared in pairs. Each measurement is a file beside the run,

    study/runs/NAME.at-2.npy

so that the command can be repeated after an interruption, and a report reads them without PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rinsc.cost import forward_flops
from rinsc.data.batches import evenly_spaced
from rinsc.errors import OutputError, RinscError, plural
from rinsc.graph import build_graph
from rinsc.graph.law import Fixed, dialled_loops, loop_law
from rinsc.graph.towers_graph import by_dial, rounds_of
from rinsc.objectives import OBJECTIVES, Pieces, objective
from rinsc.progress import Progress, ShownProgress, SilentProgress
from rinsc.spec import TowersSpec
from rinsc.spec.towers import AnySpec
from rinsc.storage.files import read_json, read_regular, write_atomically
from rinsc.study.folder import RunState, StudyFolder, read_plan
from rinsc.study.plan import PlannedRun
from rinsc.study.tuning import study_states
from rinsc.training.config import TrainConfig
from rinsc.training.run_folder import read_pieces

if TYPE_CHECKING:
    from rinsc.training.finished import FinishedRun

MORE_ROUNDS, MOST_ROUNDS = 1, 12  # beyond those of training, and at all
SAMPLE = 512  # held-out windows that are measured at other rounds


@dataclass(frozen=True)
class AtRounds:
    """A run at ``rounds`` of every repeat, on a sample of the held-out windows; lower is better."""

    run: PlannedRun
    rounds: int
    loss: float
    pieces: Pieces


def own_rounds(spec: AnySpec, config: TrainConfig) -> dict[str, int]:
    """The rounds of each repeat that the result of a run is of."""
    return by_dial(rounds_of(build_graph(spec), config.evaluation_rounds))


def rounds_to_measure(own: Mapping[str, int]) -> tuple[int, ...]:
    """From one round to one more than the most that a run was trained with.

    >>> rounds_to_measure({"A": 3}), rounds_to_measure({})
    ((1, 2, 3, 4), ())
    """
    if not own:
        return ()
    return tuple(range(1, min(max(own.values()) + MORE_ROUNDS, MOST_ROUNDS) + 1))


def is_stochastic(spec: AnySpec) -> bool:
    """Whether training draws the rounds, one round of every repeat among the rest.

    >>> from rinsc.spec import model_spec
    >>> [is_stochastic(model_spec(text)) for text in ("A^2{skip=0.5}B", "A^2B", "AB")]
    [True, False, False]
    """
    laws = [loop_law(loop) for loop in dialled_loops(build_graph(spec))]
    draws = any(not isinstance(law, Fixed) for law in laws)
    return draws and all(law.pmf is None or 1 in law.pmf for law in laws)


def inference_flops(spec: AnySpec, length: int, rounds: int) -> int:
    """Of a token, or of a pair of two towers, with every repeat run so many times."""
    graph = build_graph(spec)
    dials = dict.fromkeys((loop.name for loop in dialled_loops(graph)), rounds)
    total = forward_flops(graph, length, rounds=dials or None).total
    return total if isinstance(spec, TowersSpec) else round(total / length)


def measured_rounds(
    folder: StudyFolder, spec: AnySpec, states: Sequence[RunState], notes: list[str]
) -> Iterator[AtRounds]:
    """What is known of the runs of one variant; damaged measurements are left out with a note."""
    for state in states:
        if state.state != "finished":
            continue
        run = state.run
        own = own_rounds(spec, run.config)
        for rounds in rounds_to_measure(own):
            if set(own.values()) == {rounds}:
                sample = own_sample(folder, run)
                if sample is not None:
                    yield AtRounds(run, rounds, loss_of(run, sample), sample)
                continue
            if not folder.at_rounds(run, rounds).is_file():
                continue
            pieces = _measurement(folder, run, rounds)
            if pieces is None:
                notes.append(f"{run.words}: its figure at {plural(rounds, 'round')} is damaged")
                continue
            yield AtRounds(run, rounds, loss_of(run, pieces), pieces)


def own_sample(folder: StudyFolder, run: PlannedRun) -> Pieces | None:
    """The windows of a run's result that are measured at other rounds, too; None of one that has
    not kept them."""
    try:
        pieces = read_pieces(folder.run(run))
    except RinscError:
        return None  # `study_report` tells it where it reads all of them
    if pieces is None:
        return None
    return Pieces(*(evenly_spaced(values, SAMPLE) for values in vars(pieces).values()))


def loss_of(run: PlannedRun, pieces: Pieces) -> float:
    """The figure of some windows, or what is missing from 1 where more is better."""
    return OBJECTIVES[run.config.objective].figures[0].loss(pieces.figure)


def measure_study_rounds(path: str | Path, progress: Progress | None = None) -> list[str]:
    """Measure every finished run with repeats where it was not yet; needs PyTorch.

    Returns a line for each run that could not be measured. Raises SpecError and OutputError.
    """
    plan, folder = read_plan(path), StudyFolder(Path(path))
    left = [
        (state.run, missing)
        for state in study_states(folder, plan)
        if state.state == "finished"
        for missing in [_missing(folder, state.run, plan.variant(state.run.variant).spec)]
        if missing
    ]
    lines = []
    progress = progress or ShownProgress()
    with progress.task("measuring other rounds") as observe:
        for index, (run, missing) in enumerate(left):
            observe(index / len(left), run.words)
            try:
                _measure(folder, run, missing)
            except OutputError:
                raise
            except RinscError as error:
                lines.append(f"{run.words}: not measured at other rounds: {error.message}")
    return lines


def _missing(folder: StudyFolder, run: PlannedRun, spec: AnySpec) -> list[int]:
    own = own_rounds(spec, run.config)
    others = [count for count in rounds_to_measure(own) if set(own.values()) != {count}]
    return [count for count in others if _measurement(folder, run, count) is None]


def _measurement(folder: StudyFolder, run: PlannedRun, rounds: int) -> Pieces | None:
    """The figure at other rounds; None where there is none, or a damaged one."""
    try:
        return Pieces.from_bytes(read_regular(folder.at_rounds(run, rounds)))
    except (OSError, ValueError, EOFError, MemoryError):
        return None


def _measure(folder: StudyFolder, run: PlannedRun, counts: Sequence[int]) -> None:
    """The windows that the result is of, at each of the counts of rounds."""
    from rinsc.training.devices import find_devices
    from rinsc.training.opening import finished_run

    finished = finished_run(folder.run(run).path)
    model = finished.model(find_devices("auto").device)
    held_out = _final_examples(finished)
    for rounds in counts:
        quality = objective(run.config.objective).measure(
            *(model, held_out),
            rounds=dict.fromkeys(finished.rounds, rounds),
            precision=run.config.precision,
        )
        if quality.pieces is not None:
            write_atomically(folder.at_rounds(run, rounds), quality.pieces.to_bytes())


def _final_examples(run: FinishedRun) -> Any:
    """A sample of those that the result is of; raises DataError where the data is another."""
    from rinsc.training.heldout import run_data, run_text

    progress = SilentProgress()
    if run.config.objective == "next_token":
        data: Any = run_text(run.folder, run.tokenizer(), progress)
    else:
        data = run_data(run.folder, run.graph.spec, run.config, progress)
    count = read_json(run.folder.result).get("held_out_windows")
    return objective(run.config.objective).held_out(data, run.config).spread(count).spread(SAMPLE)
