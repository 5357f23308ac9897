"""Fuzzing by hand, with the strategies and the checks of the tests: many more examples than CI.

``python -m tests.fuzz signatures 100000``, ``specs 10000``, ``towers 10000`` or ``files 10000``;
``--seed 2`` draws others, ``--minutes 10`` ends sooner. It stops at the first example that fails,
made as small as it can be. Of each signature that is drawn, `MUTANTS` more are made by changing its
text, which is quicker than to draw them.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from rinsc.cost import block_params, cost_report
from rinsc.errors import RinscError
from rinsc.fingerprints import fingerprint
from rinsc.graph import build_graph
from rinsc.graph.draw import to_dot, to_json, to_mermaid, to_svg
from rinsc.spec import spec_to_toml
from rinsc.spec.reading import towers_from_values
from rinsc.storage.files import parse_toml
from rinsc.syntax import canonical, free_exponents, parse
from rinsc.syntax.unexpected import NotationWarning
from tests.specs import damaged_tomls, nested_specs, tower_specs
from tests.strategies import nested_signatures, signatures
from tests.syntax.test_canonical import spell
from tests.syntax.test_parser import RANDOM_TEXTS, ends_well
from tests.test_described import describe, read

BATCH = 200  # examples between two looks at the clock
MUTANTS = 24
VALID = st.one_of(
    nested_signatures(),
    nested_signatures(max_visits=200, degrees=False),
    signatures(max_visits=40, options=True),
)
PIECES = ("A", "B", "(", ")", "^2", "^3", "×2", "2×", "[2]", "{each=2}", "{adapter=scale}", "@2")


def _signature(text: str) -> int:
    """Checks the text and its mutants; gives how many they are."""
    _signature_alone(text)
    random = Random(text)
    for _ in range(MUTANTS):
        start = random.randrange(len(text) + 1)
        end = min(len(text), start + random.choice((0, 0, 1, 2, 5)))
        _signature_alone(text[:start] + random.choice(("", *PIECES)) + text[end:])
    return 1 + MUTANTS


def _signature_alone(text: str) -> None:
    assert ends_well(text, parse)
    try:
        tree = parse(text)
    except RinscError:
        return
    if free_exponents(tree):
        assert canonical(canonical(tree)) == canonical(tree)
    else:
        spell(text)


def _spec(spec: Any) -> int:
    describe(spec)
    return 1


def _towers(spec: Any) -> int:
    """Everything that is cheap to say of two towers, and their file."""
    graph = build_graph(spec)
    counts = {n: c for each in graph.towers.values() for n, c in block_params(each).items()}
    for draw in (to_svg, to_mermaid, to_dot, to_json):
        draw(graph, counts)
    cost_report(spec)
    again = towers_from_values(parse_toml(spec_to_toml(spec)))
    assert again == spec
    assert fingerprint(again) == fingerprint(spec)
    return 1


def _file(data: bytes) -> int:
    with TemporaryDirectory() as folder:
        read(data, Path(folder))
    return 1


TARGETS: dict[str, tuple[st.SearchStrategy[Any], Callable[[Any], int]]] = {
    "signatures": (st.one_of(VALID, VALID, RANDOM_TEXTS), _signature),
    "specs": (nested_specs(), _spec),
    "towers": (tower_specs(), _towers),
    "files": (damaged_tomls(), _file),
}


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("target", choices=TARGETS)
    arguments.add_argument("examples", type=int)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--minutes", type=float, default=1e9)
    wanted = arguments.parse_args()
    strategy, check = TARGETS[wanted.target]
    done, batch = 0, 0
    begin, started = time.process_time(), time.monotonic()
    while done < wanted.examples and time.monotonic() - started < 60 * wanted.minutes:
        left = (wanted.examples - done) // (1 + MUTANTS if check is _signature else 1)

        @settings(
            max_examples=max(1, min(left, BATCH)),
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @seed(1000 * wanted.seed + batch)
        @given(strategy)
        def run(example: Any) -> None:
            nonlocal done
            done += check(example)

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotationWarning)
            run()
        batch += 1
    print(f"{done} {wanted.target} held, {time.process_time() - begin:.0f} s of CPU time")


if __name__ == "__main__":
    main()
