"""The inputs that set the rounds of an exported model."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rinsc.errors import LoweringError, Problem
from rinsc.graph import BlockGraph, Rounds, resolve_rounds


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
        asked = dict(rounds) if isinstance(rounds, Mapping) else rounds
        if self._last is None or not _same(self._last[0], asked):
            settings = self.settings(asked).items()
            arrays = {self.inputs[name]: np.array(count, np.int64) for name, count in settings}
            self._last = (asked, arrays)
        return self._last[1]

    def settings(self, rounds: Rounds) -> dict[str, int]:
        """Rounds of each repeat that has an input; the others have to be as exported.

        Raises `LoweringError` for rounds that the model was not exported for.
        """
        if rounds is None:
            return {name: self.written[name] for name in self.inputs}
        asked = resolve_rounds(self.graph, rounds)
        fixed = {name: count for name, count in asked.items() if name not in self.inputs}
        if fixed and any(self.written.get(name) != count for name, count in fixed.items()):
            message = f"the model was exported for rounds {self.written}, and cannot run {asked}"
            raise self._refused(message, "export it with rounds='dynamic'")
        if self.gated and any(asked[name] > self.written[name] for name in self.inputs):
            message = f"the model runs at most {self.written} rounds, not {asked}"
            raise self._refused(message, "export it with more rounds")
        return {name: asked[name] for name in self.inputs}

    def _refused(self, message: str, hint: str) -> LoweringError:
        return LoweringError(Problem("fixed-rounds", message, place=self.place, hint=hint))


def dial_inputs(graph: BlockGraph, names: Collection[str]) -> dict[str, str]:
    """The input among ``names`` that sets the rounds of each repeat, where there is one."""
    known = {
        loop.name: (f"rounds_{loop.name}", f"depth_{loop.name}", "depth") for loop in graph.dials()
    }
    return {name: each for name, wanted in known.items() for each in wanted if each in names}


def _same(left: Rounds, right: Rounds) -> bool:
    """Equal, and not only as numbers: ``True`` equals 1 and is no number of rounds."""
    return repr(left) == repr(right)
