"""Fuzzing by hand, with the strategies and the checks of the tests: many more examples than CI.

``python -m tests.fuzz signatures 100000``, ``specs 10000`` or ``files 10000``; ``--seed 2`` draws
others. It stops at the first example that fails, made as small as it can be.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from rinsc.syntax import parse
from rinsc.syntax.notes import NotationWarning
from tests.specs import damaged_tomls, nested_specs
from tests.strategies import nested_signatures, signatures
from tests.syntax.test_canonical import spell
from tests.syntax.test_parser import RANDOM_TEXTS, ends_well
from tests.test_described import describe, read

VALID = st.one_of(
    nested_signatures(),
    nested_signatures(max_visits=400, degrees=False),
    signatures(max_visits=40, options=True),
)


def _signature(example: tuple[bool, str]) -> None:
    is_valid, text = example
    if is_valid:
        spell(text)
    else:
        assert ends_well(text, parse)


def _file(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        read(data, Path(folder))


TARGETS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], None]]] = {
    "signatures": (
        st.one_of(st.tuples(st.just(True), VALID), st.tuples(st.just(False), RANDOM_TEXTS)),
        _signature,
    ),
    "specs": (nested_specs(), describe),
    "files": (damaged_tomls(), _file),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("target", choices=TARGETS)
    arguments.add_argument("examples", type=int)
    arguments.add_argument("--seed", type=int, default=1)
    wanted = arguments.parse_args()
    strategy, check = TARGETS[wanted.target]
    done = 0

    @settings(
        max_examples=wanted.examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @seed(wanted.seed)
    @given(strategy)
    def run(example: Any) -> None:
        nonlocal done
        check(example)
        done += 1

    begin = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotationWarning)
        run()
    print(f"{done} {wanted.target} held, {time.process_time() - begin:.0f} s of CPU time")


if __name__ == "__main__":
    main()
