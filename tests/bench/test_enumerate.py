"""100,000 distinct variants, enumerated and costed on one core; the zoo listed from the shell."""

from __future__ import annotations

import os
import statistics
import subprocess
import sysconfig
import time
from itertools import islice
from pathlib import Path

from rinsc.spec import model_spec
from rinsc.variants.enumerate import variants

COUNT = 100_000
RUNS = 5


def test_a_hundred_thousand_variants() -> None:
    base = model_spec("A", preset="300m")
    start = time.process_time()
    found = list(islice(variants(base, 4, 10, 2), COUNT))
    counted = time.process_time() - start
    written = {variant.signature for variant in found}
    both = time.process_time() - start
    assert len(found) == len(written) == COUNT
    print(
        f"\n{COUNT:,} variants costed in {counted:.1f} s, with their signatures {both:.1f} s (CPU)"
    )
    assert both < 60


def test_the_zoo_is_listed_at_once() -> None:
    rinsc = str(Path(sysconfig.get_path("scripts")) / "rinsc")
    times = []
    for _ in range(RUNS):
        start = children_seconds()
        subprocess.run([rinsc, "zoo", "list"], check=True, capture_output=True)
        times.append(children_seconds() - start)
    median, best = statistics.median(times), min(times)
    print(f"\nrinsc zoo list: median {median:.2f} s, least {best:.2f} s of {RUNS} runs (CPU)")
    assert best < 1.0


def children_seconds() -> float:
    """CPU time of the processes started so far, user and system."""
    return sum(os.times()[2:4])
