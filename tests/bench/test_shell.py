"""`rinsc check` from the shell, and parsing alone."""

from __future__ import annotations

import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from rinsc.syntax import canonical, parse

RUNS = 15


def wall_seconds(command: list[str]) -> list[float]:
    times = []
    for _ in range(RUNS):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append(time.perf_counter() - start)
    return times


def test_check_answers_at_once() -> None:
    rinsc = Path(sysconfig.get_path("scripts")) / "rinsc"
    bare = statistics.median(wall_seconds([sys.executable, "-c", "pass"]))
    check = statistics.median(wall_seconds([str(rinsc), "check", "(A^3)B"]))
    print(f"\nrinsc check: median {check:.3f} s of {RUNS} runs; python alone {bare:.3f} s")
    assert check < 0.2


def test_a_thousand_signatures_parse_in_a_second() -> None:
    texts = [f"((A^{2 + i % 7})B[{1 + i % 5}])^{2 + i % 3}C{i}" for i in range(1000)]
    start = time.process_time()
    trees = [parse(text) for text in texts]
    parsed = time.process_time() - start
    for tree in trees:
        canonical(tree)
    both = time.process_time() - start
    print(f"\n1,000 signatures: parsed in {parsed:.2f} s, canonical spelling too {both:.2f} s")
    assert parsed < 1.0
