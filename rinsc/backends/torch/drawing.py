"""What an emitted module draws in training: the functions that draw, and when it calls them.

Of ``A^3{skip=0.5}B`` the file gets ``skipped_rounds``, ``draw_rounds`` with the line
``{"A": skipped_rounds(generator, 3, 0.5)}``, the class ``Draws``, and a ``forward`` that asks
``self.draws`` for the rounds that it is not given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from typing import Any

from rinsc.backends.torch.blocks import WIDEST
from rinsc.backends.torch.statements import call, indented
from rinsc.backends.torch.steps import takes_noise_seed
from rinsc.graph import BlockGraph
from rinsc.graph.law import (
    Fixed,
    drawn_loops,
    loop_law,
    noise_seed_of,
    poisson_lognormal_rounds,
    poisson_rate,
    step_generator,
)

# What a function calls stands before it.
CALLED: dict[Callable[..., Any], tuple[Callable[..., Any], ...]] = {
    poisson_lognormal_rounds: (poisson_rate,)
}

_DRAW_ROUNDS = '''def draw_rounds(seed: int, step: int) -> dict[str, int]:
    """Rounds of each repeat in a training step, by seed and step alone."""
    generator = step_generator(seed, step)
    return {rounds}
'''

_DRAWN = """# The repeats whose rounds training draws.
DRAWN = {names}
"""

_DRAWS = '''class Draws:
    """What a training pass draws where it is not given: {what}.

    Draws depend on `seed` and `step` alone, so that all ranks draw the same. Each pass is a step of
    its own; passes within `held` are parts of one step.{ranks}
    """
{replica_attribute}
    def __init__(self) -> None:
        self.seed = 0
        self.step = 0  # of the next pass
{rounds_attribute}        self._is_held = False
        self._rows = 0  # that have run of the step held
        self._last: tuple[int, int] | None = None
        self._passes: dict[int, tuple[int, int]] = {{}}

    def __setattr__(self, name: str, value: object) -> None:
        if name in ("seed", "step"):
            number = whole(value)
            if number is None:
                raise ValueError(f"the {{name}} of draws must be a whole number, not {{value!r}}")
            value = number
        super().__setattr__(name, value)

    def hold(self, step: int | None = None) -> None:
        """Make the coming passes parts of one step, until the next call or `release`."""
        self.step = self.step if step is None else step
        self._is_held, self._rows = True, 0

    def release(self) -> None:
        """End the step held."""
        self.step += self._is_held
        self._is_held, self._rows = False, 0

    @contextmanager
    def held(self, step: int | None = None) -> Iterator[None]:
        """All passes within are parts of one step: the next one, or the one given."""
        self.hold(step)
        try:
            yield
        finally:
            self.release()

    def lacks(self, rounds: Rounds, noise_seed: int | None = 0) -> bool:
        """Whether something is left to draw."""
{lacks}

{uncompiled}
    def fill(
        self, rounds: Rounds, noise_seed: int | None = 0, rows: int = 0, again: bool = False
    ) -> tuple[Rounds, int | None]:
        """Rounds and noise seed of a pass over so many rows, or of the last one once more."""
        drawn = self._last if again else self._drawn(rows)
        if drawn is None:
            return rounds, noise_seed
{fill}        return rounds, noise_seed

    def _drawn(self, rows: int) -> tuple[int, int]:
        """The step of a pass, and its first row within the step."""
        # What a checkpoint runs again starts from the same random state: the pass is known by it.
        try:
            state = int(torch.randint(2**62, (), device="cpu"))
        except RuntimeError:  # torch.vmap draws nothing
            state = -1
        if torch._C._current_graph_task_id() != -1:  # within a backward pass
            return self._passes.get(state, self._last or (self.step, 0))
        self._last = (self.step, {first_row})
        if self._is_held:
            self._rows += rows
        else:
            self.step += 1
        self._passes[state] = self._last
        if len(self._passes) > 1024:
            del self._passes[next(iter(self._passes))]
        return self._last
'''

# Rows of other ranks are other rows of the batch, and so have other noise.
_RANKS = """

    Of a batch in equal shares, one a rank, each row has the noise that it has in the whole batch.
    `replica` is this rank's share and the number of shares, where not all ranks have one each."""

_REPLICA = """
    replica: tuple[int, int] | None = None
"""

_FIRST_ROW = '''
    def _first_row(self, rows: int) -> int:
        """The first row of a pass over so many rows, in the step's whole batch."""
        share, shares = self.replica or (0, 1)
        is_alone = not torch.distributed.is_available() or not torch.distributed.is_initialized()
        if self.replica is None and not is_alone:
            share, shares = torch.distributed.get_rank(), torch.distributed.get_world_size()
        return self._rows * shares + share * rows
'''

_LACKS_ROUNDS = """        if rounds is None or isinstance(rounds, Mapping):
            return {noise}any(name not in (rounds or {{}}) for name in DRAWN)
        return {other}"""

_FILL_ROUNDS = """        if rounds is None or isinstance(rounds, Mapping):
            rounds = self.rounds = {**draw_rounds(self.seed, drawn[0]), **(rounds or {})}
"""

_FILL_NOISE = """        if noise_seed is None:
            noise_seed = noise_seed_of(self.seed, *drawn)
"""


def draws_in_training(graph: BlockGraph) -> bool:
    """Whether a training pass has something to draw: rounds, or the noise of a start."""
    return any(drawn_loops(graph)) or takes_noise_seed(graph)


def drawing_imports(graph: BlockGraph) -> dict[str, list[str]]:
    """What `drawing_source` takes from the standard library, by module."""
    if not draws_in_training(graph):
        return {}
    imports = {"collections.abc": ["Iterator"], "contextlib": ["contextmanager"]}
    if any(drawn_loops(graph)):
        imports |= {"collections.abc": ["Iterator", "Mapping"], "random": ["Random"]}
    return imports


def _uncompiled(reason: str) -> str:
    """The decorator of a method that is not compiled, on one line where that fits."""
    line = f'    @torch.compiler.disable(reason="{reason}")'
    if len(line) <= WIDEST + 8:
        return line
    return f'    @torch.compiler.disable(\n        reason="{reason}"\n    )'


def drawing_source(graph: BlockGraph) -> list[str]:
    """The functions and the class, each a chunk of the file; none where nothing is drawn."""
    if not draws_in_training(graph):
        return []
    laws = {loop.name: loop_law(loop) for loop in graph.dials()}
    drawn = [loop.name for loop in drawn_loops(graph)]
    noise = takes_noise_seed(graph)
    chunks = []
    if drawn:
        samplers = {law.sampler[0]: None for law in laws.values() if not isinstance(law, Fixed)}
        functions = [f for sampler in samplers for f in (*CALLED.get(sampler, ()), sampler)]
        chunks += [f"\n{inspect.getsource(f)}" for f in (step_generator, *functions)]
        items = []
        for name, law in laws.items():
            sampler, arguments = law.sampler
            call = f"{sampler.__name__}({', '.join(['generator', *map(repr, arguments)])})"
            items.append(f'"{name}": {law.rounds if isinstance(law, Fixed) else call}')
        chunks.append("\n" + _DRAW_ROUNDS.format(rounds=_braced(items, "{}", indent=4)))
    if noise:
        chunks.append(f"\n{inspect.getsource(noise_seed_of)}")
    if drawn:
        names = [f'"{name}"' for name in drawn]
        listed = f"({names[0]},)" if len(names) == 1 else _braced(names, "()", indent=0)
        chunks.append("\n" + _DRAWN.format(names=listed))
    what = ["rounds"] * bool(drawn) + ["the seed of noise"] * noise
    text = _DRAWS.format(
        what=" and ".join(what),
        ranks=_RANKS * noise,
        uncompiled=_uncompiled(
            "rounds are drawn in Python: give rounds=2, or leave out fullgraph"
            if drawn and not noise
            else "noise is seeded: give noise_seed=step, or leave out fullgraph"
            if noise and not drawn
            else "training draws: give rounds=2 and noise_seed=step, or leave out fullgraph"
        ),
        replica_attribute=_REPLICA * noise,
        first_row="self._first_row(rows)" if noise else "self._rows",
        rounds_attribute="        self.rounds: Mapping[str, int] = {}  # of the last draw\n"
        if drawn
        else "",
        lacks=_LACKS_ROUNDS.format(
            noise="noise_seed is None or " * noise, other="noise_seed is None" if noise else "False"
        )
        if drawn
        else "        return noise_seed is None",
        fill=_FILL_ROUNDS * bool(drawn) + _FILL_NOISE * noise,
    )
    text += _FIRST_ROW * noise
    if not any(graph.dials()):
        text = text.replace("rounds: Rounds", "rounds: int | None").replace(
            "tuple[Rounds, int | None]", "tuple[int | None, int | None]"
        )
    chunks.append(f"\n{text}")
    return chunks


def drawing_lines(
    graph: BlockGraph, rows: str, *, when: str = "", again: str = ""
) -> Iterator[str]:
    """Statements of a ``forward`` after which rounds and noise seed are those that run.

    ``when`` is a further condition; where ``again`` holds, the last draw counts once more.
    """
    noise = takes_noise_seed(graph)
    if draws_in_training(graph):
        named = "rounds, noise_seed" if noise else "rounds"
        result = "rounds, noise_seed" if noise else "rounds, _"
        arguments = [named, rows if noise else f"rows={rows}"]
        arguments += [f"again={again}"] if again else []
        yield f"if self.training and {when}self.draws.lacks({named}):"
        yield from indented(call(f"{result} = self.draws.fill", arguments, indent=2))
    if noise:
        yield "noise_seed = noise_seed or 0"


def _braced(items: list[str], braces: str, indent: int) -> str:
    """The items between braces, one a line where they are too long for one."""
    line = f"{braces[0]}{', '.join(items)}{braces[1]}"
    if len(line) + indent + len("return ") <= WIDEST:
        return line
    space = " " * (indent + 4)
    inner = "".join(f"{space}{item},\n" for item in items)
    return f"{braces[0]}\n{inner}{' ' * indent}{braces[1]}"
