"""What other systems need to run a study: a Job of Kubernetes, a script of sbatch, lines of shell.

Each has one task for a run, which calls ``rinsc study work STUDY --run NUMBER``. What that ends
with says what to do: 0 is done, 1 and 2 need you, and whatever else is tried again. Trials of
learning rates have the first numbers. A run whose rate follows from trials does those that nobody
is at, and waits for the others. So tasks need no order, and none can wait for ever.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rinsc.errors import UsageError
from rinsc.study.folder import MOST_STARTS, read_plan
from rinsc.study.plan import Plan
from rinsc.study.tasks import resource_count
from rinsc.study.working import BUSY

Form = Literal["k8s", "slurm", "shell"]
ARRAY_TASKS = 1000  # of one array: Slurm takes 1,001 unless it is told otherwise
MOST_REQUEUES = 50
SECONDS_TO_END = 120  # for the checkpoint of a run that is told to end
MOUNT = "/study"


@dataclass(frozen=True)
class Target:
    """Where tasks run and what each is given; 0 workers are as many as the system allows.

    ``image`` and ``claim`` (a PersistentVolumeClaim that holds the study's files) are for
    Kubernetes, ``slurm`` are options of sbatch.
    """

    workers: int = 0
    threads: int = 1
    gpus: int = 0
    memory: str = "2Gi"
    image: str = "rinsc:latest"
    claim: str = "rinsc-study"
    slurm: Mapping[str, str] = field(default_factory=dict)


def emit(folder: str | Path, form: Form, target: Target | None = None) -> str:
    """The text that runs the study of a folder elsewhere; raises UsageError for values that are
    none, and SpecError where there is no study."""
    target = target or Target()
    resource_count("workers", target.workers, least=0, hint="0 is as many as the system allows")
    resource_count("threads", target.threads, hint="leave it out for one")
    resource_count("gpus", target.gpus, least=0, hint="leave it out for none")
    plan, path = read_plan(folder), Path(folder).resolve()
    if not str(path).isprintable():
        message = "the name of the folder has line breaks or other characters that do not print"
        raise UsageError("bad-folder", message, place=str(path), hint="rename the folder")
    if form == "k8s":
        return _job(plan, target)
    return _array(plan, target, path) if form == "slurm" else _lines(plan, path)


def _command(path: Path) -> list[str]:
    """This Python, by its path: a job of a cluster may find another one first."""
    return [sys.executable, "-P", "-m", "rinsc", "study", "work", str(path), "--run"]


def _lines(plan: Plan, path: Path) -> str:
    command = shlex.join(_command(path))
    return "".join(f"{command} {number}\n" for number in range(len(plan.jobs)))


def _array(plan: Plan, target: Target, path: Path) -> str:
    """A script of bash; where there are more runs than an array has tasks, a task does several."""
    count = len(plan.jobs)
    tasks = min(count, ARRAY_TASKS)
    options = {
        "job-name": f"rinsc-{plan.digest}",
        "array": f"0-{tasks - 1}" + (f"%{target.workers}" if target.workers else ""),
        "cpus-per-task": str(target.threads),
        **({"gpus-per-task": str(target.gpus), "ntasks": "1"} if target.gpus else {}),
        "signal": f"B:TERM@{SECONDS_TO_END}",
        "open-mode": "append",
        **target.slurm,
    }
    directives = "\n".join(f"#SBATCH --{key}={_quoted(value)}" for key, value in options.items())
    return f"""\
#!/bin/bash
{directives}

# One task a run: sbatch THIS_FILE. Submit it again to go on; finished runs cost nothing.
export OMP_NUM_THREADS={target.threads}
last=0
for ((run = SLURM_ARRAY_TASK_ID; run < {count}; run += {tasks})); do
    {shlex.join(_command(path))} "$run" &
    worker=$!
    trap 'kill -TERM "$worker"' TERM  # before the time is up: it leaves a checkpoint
    wait "$worker"
    status=$?
    while kill -0 "$worker" 2>/dev/null; do
        wait "$worker"
        status=$?
    done
    case $status in
    0) ;;
    1 | 2) last=$status ;;  # a mistake, which another try would meet again
    *)
        if command -v scontrol >/dev/null && ((${{SLURM_RESTART_COUNT:-0}} < {MOST_REQUEUES})); then
            scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_${{SLURM_ARRAY_TASK_ID}}"
        fi
        exit "$status"
        ;;
    esac
done
exit "$last"
"""


def _quoted(value: str) -> str:
    """As sbatch reads a value: it knows the quotes of a shell."""
    return (
        value
        if all(char.isalnum() or char in "-_.,:%@+/=" for char in value)
        else shlex.quote(value)
    )


def _job(plan: Plan, target: Target) -> str:
    """An Indexed Job; texts are JSON strings, which are YAML."""
    count = len(plan.jobs)
    parallelism = min(count, target.workers or ARRAY_TASKS)
    script = f'exec rinsc study work {MOUNT} --run "$JOB_COMPLETION_INDEX"'
    limits = [f"memory: {_text(target.memory)}"]
    if target.gpus:
        limits.append(f"nvidia.com/gpu: {target.gpus}")
    lines = f"\n{' ' * 14}".join(limits)
    return f"""\
# One index a run: kubectl apply -f THIS_FILE. The claim holds the files of the study's folder.
apiVersion: batch/v1
kind: Job
metadata:
  name: rinsc-study-{plan.digest}
spec:
  completionMode: Indexed
  completions: {count}
  parallelism: {parallelism}
  backoffLimitPerIndex: {MOST_STARTS}
  maxFailedIndexes: {min(count, 10_000)}
  podFailurePolicy:
    rules:
      - action: FailIndex  # a mistake, which another try would meet again
        onExitCodes:
          containerName: rinsc
          operator: In
          values: [1, 2]
      - action: Ignore  # another worker is at the run, or it was told to end with a checkpoint
        onExitCodes:
          containerName: rinsc
          operator: In
          values: [{BUSY}, 143]
      - action: Ignore  # a node was drained or lost
        onPodConditions:
          - type: DisruptionTarget
  template:
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: {SECONDS_TO_END}
      containers:
        - name: rinsc
          image: {_text(target.image)}
          command: ["/bin/sh", "-c", {_text(script)}]
          env:
            - name: OMP_NUM_THREADS
              value: "{target.threads}"
            - name: RINSC_DATA
              value: "{MOUNT}/tokens"  # prepared once for all
          resources:
            requests:
              cpu: "{target.threads}"
              memory: {_text(target.memory)}
            limits:
              {lines}
          volumeMounts:
            - name: study
              mountPath: {MOUNT}
      volumes:
        - name: study
          persistentVolumeClaim:
            claimName: {_text(target.claim)}
"""


def _text(value: str) -> str:
    return json.dumps(value)
