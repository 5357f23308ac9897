"""The inputs that set the rounds of an exported model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rinsc.errors import LoweringError, Problem
from rinsc.graph import BlockGraph, Rounds, plain_rounds, resolve_rounds

USED = "rounds_used_"  # outputs of models whose rounds may end early


@dataclass
class Dials:
    """Which input sets each repeat's rounds; ``written`` are those that the model was written with.

    Of a ``gated`` model they are the most that it runs.
    """

    graph: BlockGraph
    inputs: Mapping[str, str]
    written: Mapping[str, int]
    gated: bool
    place: str
    _last: tuple[Rounds, dict[str, npt.NDArray[np.int64]]] | None = field(default=None, init=False)

    def arrays(self, rounds: Rounds) -> dict[str, npt.NDArray[np.int64]]:
        """The inputs for these rounds; the last ones are kept, since each token asks again."""
        asked = plain_rounds(rounds)
        last = self._last
        if last is not None and _same(last[0], asked):
            return last[1]
        settings = self.settings(asked).items()
        arrays = {self.inputs[name]: np.array(count, np.int64) for name, count in settings}
        self._last = (asked, arrays)
        return arrays

    def settings(self, rounds: Rounds) -> dict[str, int]:
        """Rounds of each repeat that has an input; the others have to be as exported.

        Raises `LoweringError` for rounds that the model was not exported for.
        """
        if rounds is None:
            return {name: self.written[name] for name in self.inputs}
        asked = resolve_rounds(self.graph, rounds)
        fixed = {name: count for name, count in asked.items() if name not in self.inputs}
        if fixed and any(self.written.get(name) != count for name, count in fixed.items()):
            hint = "export it with rounds='dynamic', or leave the rounds out"
            raise self._refused("was compiled for", asked, hint)
        if self.gated and any(asked[name] > self.written[name] for name in self.inputs):
            raise self._refused("runs at most", asked, "export it with more rounds")
        return {name: asked[name] for name in self.inputs}

    def _refused(self, can: str, asked: Mapping[str, int], hint: str) -> LoweringError:
        written, wanted = _in_words(self.written), _in_words(asked)
        message = f"the model {can} {written} round{'s' * (written != '1')}, not {wanted}"
        return LoweringError(Problem("fixed-rounds", message, place=self.place, hint=hint))


def _in_words(counts: Mapping[str, int]) -> str:
    """``3``, or ``A=3, B=2`` where there are several repeats."""
    if len(counts) == 1:
        return str(*counts.values())
    return ", ".join(f"{name}={count}" for name, count in counts.items())


def dial_inputs(graph: BlockGraph, names: Collection[str]) -> dict[str, str]:
    """The input among ``names`` that sets the rounds of each repeat, where there is one."""
    known = {
        loop.name: [dial_name(graph, loop.name, gated=gated) for gated in (False, True)]
        for loop in graph.dials()
    }
    return {name: each for name, wanted in known.items() for each in wanted if each in names}


def dial_name(graph: BlockGraph, name: str, *, gated: bool) -> str:
    """The input that sets a repeat's rounds: ``rounds_A``; of a gated model ``depth``, or
    ``depth_A`` where there are several repeats."""
    if not gated:
        return f"rounds_{name}"
    return "depth" if len(list(graph.dials())) == 1 else f"depth_{name}"


def _same(left: Rounds, right: Rounds) -> bool:
    """Equal, and not only as numbers: ``True`` equals 1 and is no number of rounds."""
    return repr(left) == repr(right)
