"""``rinsc study``: many runs from one plan, and what they show."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import App, Parameter

from rinsc.cli.output import print_json, print_line, print_note, print_result, print_result_table
from rinsc.cli.values import Output
from rinsc.errors import plural
from rinsc.extras import TO_TRAIN, require
from rinsc.scalars import Table

if TYPE_CHECKING:
    from rinsc.study.folder import RunState

Folder = Annotated[Path, Parameter(name="STUDY", help="The folder of a study.")]
SlurmOptions = Annotated[tuple[str, ...], Parameter(name="--slurm", consume_multiple=False)]
MOST_LISTED = 10  # runs that went wrong


def plan_(
    source: Annotated[Path, Parameter(name="PLAN", help="A TOML file.")],
    /,
    *,
    output: Output = None,
    rate: Literal["tuned", "fixed"] | None = None,
    flops_per_second: float | None = None,
    json: bool = False,
) -> None:
    """Resolve, cost and check every run of a study; nothing is trained.

    Every mistake of every run is told at once. The same plan gives the same runs.

    Parameters
    ----------
    output
        The folder of the study, where the plan is written; without it the plan is only checked.
    rate
        Whether each variant gets a learning rate of its own or all have one; as the plan says if
        not given.
    flops_per_second
        Speed of a worker, to estimate the hours of all runs, one after the other.
    json
        Print the plan as JSON.
    """
    from rinsc.study.estimates import estimates, plan_table, time_text
    from rinsc.study.folder import write_plan
    from rinsc.study.plan import plan_study

    plan = plan_study(source, rate=rate)
    needs = estimates(plan, flops_per_second)
    if output is not None:
        write_plan(plan, output)
    if json:
        print_json({**plan.facts(), "estimates": [item.facts() for item in needs]})
        return
    if plan.title:
        print_line(plan.title, style="bold")
    print_result_table(plan_table(plan, needs))
    for note in plan.notes:
        print_line(f"note: {note}")
    print_line(plan.total)
    if flops_per_second is not None:
        hours = sum(item.hours or 0.0 for item in needs)
        print_line(f"{time_text(hours)} of one worker at {flops_per_second:g} FLOP/s")
    if output is not None:
        path = f"./{output}" if str(output).startswith("-") else str(output)
        print_note(f"next: rinsc study run {shlex.quote(path)}")


def run(
    folder: Folder,
    /,
    *,
    on: Literal["local", "ray", "slurm", "slurm-local"] = "local",
    workers: int | None = None,
    threads: int = 1,
    gpus: float = 0,
    slurm: SlurmOptions = (),
    json: bool = False,
) -> int:
    """Do the runs of a study; repeat the command to go on.

    Parameters
    ----------
    on
        This machine (local); a cluster of Ray, that of RAY_ADDRESS or one of this machine alone;
        Slurm; or slurm-local, which tries the jobs of Slurm out on this machine.
    workers
        Runs at a time; one for each core, or as many as a cluster takes, if not given.
    threads
        Cores of each run.
    gpus
        Of each run on a cluster; on Ray also a share of one, as 0.25.
    slurm
        An option of sbatch for each job, as partition=long; may be repeated.
    json
        Print the outcome of every run as JSON.
    """
    require(*TO_TRAIN)
    from rinsc.study.engines import run_study

    states = run_study(folder, on=on, workers=workers, threads=threads, gpus=gpus, slurm=slurm)
    _print_states(states, json=json)
    return 0 if all(state.state != "failed" for state in states) else 1


def work(
    folder: Folder,
    /,
    *,
    only: Annotated[str | None, Parameter(name="--run")] = None,
    json: bool = False,
) -> int:
    """Do runs of a study until none is left, beside other workers of the same folder.

    This is what a job of a cluster calls; rinsc study run starts such workers on one machine. With
    --run the exit status says what became of the run: 0 for a result, 1 where it failed, 75 where
    another worker is at it, 143 where this one was told to end.

    Parameters
    ----------
    only
        The name of one run, or its number in the plan from 0 on.
    json
        Print how many runs were done, or what became of the one, as JSON.
    """
    require(*TO_TRAIN)
    from rinsc.study.working import exit_status, work_on
    from rinsc.study.working import work as do_work

    if only is None:
        done = do_work(folder)
        if json:
            print_json({"done": done})
        else:
            print_note(f"{plural(done, 'run')} done")
        return 0
    state = work_on(folder, only)
    if json:
        print_json(state.facts())
    else:
        print_note(state.words)
    return exit_status(state)


def emit_(
    folder: Folder,
    /,
    *,
    form: Annotated[Literal["k8s", "slurm", "shell"], Parameter(name="--as")],
    output: Output = None,
    workers: int = 0,
    threads: int = 1,
    gpus: int = 0,
    memory: str = "2Gi",
    image: str = "rinsc:latest",
    claim: str = "rinsc-study",
    slurm: SlurmOptions = (),
    json: bool = False,
) -> None:
    """Write what another system needs to run a study: one task for each run.

    k8s is an Indexed Job of Kubernetes, slurm a script for sbatch, and shell a line for each run:
    parallel < LINES, or xargs -d '\\n' -P 4 -I{} sh -c {} < LINES.

    Parameters
    ----------
    form
        For which system.
    output
        The file to write; standard output if not given.
    workers
        Tasks at a time; as many as the system allows if not given.
    threads
        Cores of each task.
    gpus
        Of each task.
    memory
        Of each task, on Kubernetes.
    image
        A container with rinsc, on Kubernetes.
    claim
        The PersistentVolumeClaim that holds the study's files, on Kubernetes.
    slurm
        An option of sbatch, as partition=long; may be repeated.
    json
        Print the text in a JSON object.
    """
    from rinsc.study.emit import Target, emit
    from rinsc.study.tasks import slurm_options

    target = Target(workers, threads, gpus, memory, image, claim, slurm_options(slurm))
    text = emit(folder, form, target)
    if output is not None:
        from rinsc.storage.files import write_atomically

        write_atomically(output, text)
        print_note(f"wrote {output}")
    if json:
        print_json({"as": form, "text": text})
    elif output is None:
        print_result(text.rstrip("\n"))


def status(folder: Folder, /, *, json: bool = False) -> None:
    """How far a study is, read from its run folders.

    Parameters
    ----------
    json
        Print the state of every run as JSON.
    """
    from rinsc.study.estimates import hours_left, time_text
    from rinsc.study.folder import StudyFolder, read_plan
    from rinsc.study.tuning import job_states

    plan = read_plan(folder)
    states = job_states(StudyFolder(folder), plan)
    _print_states(states, json=json)
    hours = hours_left(states)
    if hours and not json:
        print_result(f"about {time_text(hours)} left for one worker, by the finished runs")


def report(
    folder: Folder,
    /,
    *,
    output: Output = None,
    rounds: bool = False,
    json: bool = False,
) -> None:
    """Rank the variants of a study at each budget, and fit their scaling laws.

    Parameters
    ----------
    output
        Write the report: .html with .csv and .json beside it, or one of these two alone.
    rounds
        First measure finished runs at other rounds than their own; what is measured is kept.
    json
        Print the report as JSON.
    """
    require("numpy", "scipy")
    from rinsc.study.page import write_report
    from rinsc.study.report import study_report

    if rounds:
        require(*TO_TRAIN)
        from rinsc.study.rounds import measure_study_rounds

        for line in measure_study_rounds(folder):
            print_note(line)
    result = study_report(folder)
    if output is not None:
        written = write_report(result, output)
        print_note(f"wrote {', '.join(map(str, written))}")
    if json:
        print_json(result.facts())
        return
    for title, heads, rows in result.tables():
        print_line(title, style="bold")
        print_result_table(Table(heads, rows, left=(0, len(heads) - 1)))
        print_line()
    for line in result.notes:
        print_line(line)


def _print_states(states: list[RunState], *, json: bool) -> None:
    from rinsc.study.folder import lines_of_failures, states_lines

    if json:
        print_json([state.facts() for state in states])
        return
    failures = lines_of_failures(states)
    for line in (*states_lines(states), *failures[:MOST_LISTED]):
        print_result(line)
    if len(failures) > MOST_LISTED:
        print_result(f"and {len(failures) - MOST_LISTED} more: see --json")


study = App(name="study", help="Many runs from one plan, and what they show.")
for function, name in (
    (plan_, "plan"),
    (run, "run"),
    (status, "status"),
    (report, "report"),
    (work, "work"),
    (emit_, "emit"),
):
    study.command(function, name=name)
