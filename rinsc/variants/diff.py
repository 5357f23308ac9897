"""How two variants differ: in words, in the layers that they run, and in figures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest

from rinsc.cost import CostReport, cost_report
from rinsc.errors import listed, plural
from rinsc.fingerprints import fingerprint
from rinsc.graph import BlockGraph, Loop, build_graph
from rinsc.scalars import (
    Table,
    exact,
    ratio,
    rounded_bytes,
    rounded_count,
    rounded_flops,
    short_text,
)
from rinsc.spec import ModelSpec, TowersSpec
from rinsc.spec.kinds import layers_kind
from rinsc.spec.model import dimensions as dimensions_of
from rinsc.spec.model import require_spec
from rinsc.spec.towers import require_towers
from rinsc.variants.costed import rounds_text
from rinsc.variants.executed import Run, executed_runs, schedule_text, turned_layers

MAX_LISTED = 8  # stretches of a schedule, and dials
HEAD_WIDTH = 18  # of a signature over a column


@dataclass(frozen=True)
class Side:
    """One of the two variants. FLOPs are of a sequence as long as its context."""

    signature: str
    fingerprint: str
    blocks: tuple[str, ...]
    dials: tuple[str, ...]
    schedule: str
    parameters: int
    layers: int
    executed_layers: int
    forward_flops_per_token: int
    training_flops_per_token: int
    kv_bytes_per_token: int
    expected_rounds: Mapping[str, int | float]


@dataclass(frozen=True)
class Difference:
    """Two variants compared.

    ``same_model`` is whether they are the same model at the rounds written, ``same_dials`` whether
    their repeats, whatever they are called, turn them alike as well. ``dimensions`` has the keys of
    the specs that differ, with both values; ``shared_start`` is how many layers both run in the
    same way from the first on, training apart, and None where other dimensions than the number of
    layers differ.
    """

    left: Side
    right: Side
    same_model: bool
    same_dials: bool
    dimensions: Mapping[str, tuple[object, object]]
    shared_start: int | None

    def words(self) -> list[str]:
        """What there is to say, a sentence each."""
        left, right = self.left.signature, self.right.signature
        if not self.same_model:
            return [f"{left} and {right} are different models.", *self._reasons()]
        if self.same_dials:
            return [f"{left} and {right} are the same model."]
        dials = " and ".join(
            f"{side.signature} has {listed(side.dials, MAX_LISTED) or 'none'}"
            for side in (self.left, self.right)
        )
        return [
            f"{left} and {right} are the same model at the rounds written.",
            f"Their dials differ: {dials}.",
        ]

    def _reasons(self) -> list[str]:
        """In what two different models differ."""
        reasons = [
            f"{key} is {left} and {right}." for key, (left, right) in self.dimensions.items()
        ]
        left, right = self.left, self.right
        if self.shared_start == 0:
            reasons.append("They differ from the first layer on.")
        elif self.shared_start is not None and self.shared_start < self._most_layers:
            reasons.append(f"They part ways after {plural(self.shared_start, 'layer')}.")
        elif not reasons:
            reasons.append("They run the same layers in the same order, with other options.")
        if left.parameters == right.parameters:
            reasons.append("They have as many parameters.")
        if left.training_flops_per_token == right.training_flops_per_token:
            reasons.append("They cost the same to train.")
        return reasons

    @property
    def _most_layers(self) -> int:
        return max(self.left.executed_layers, self.right.executed_layers)

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        return {**asdict(self), "words": self.words()}


def diff(left: ModelSpec, right: ModelSpec) -> Difference:
    """Compare two variants at the rounds written.

    Raises `SpecError` for anything but specs, and `GraphError` for schedules that are too long.
    """
    graphs = [build_graph(require_spec(spec)) for spec in (left, right)]
    runs = [executed_runs(graph) for graph in graphs]
    one, other = (_side(graph) for graph in graphs)
    same_model = one.fingerprint == other.fingerprint
    dimensions = _dimensions(left, right)
    return Difference(
        one,
        other,
        same_model=same_model,
        same_dials=same_model
        and all(left == right for left, right in zip_longest(*map(_dials, graphs))),
        dimensions=dimensions,
        shared_start=_shared_start(*runs) if set(dimensions) <= {"layers"} else None,
    )


@dataclass(frozen=True)
class TowersSide:
    """One of two models of towers; FLOPs are of a sequence in each tower."""

    signature: str
    fingerprint: str
    shared_blocks: tuple[str, ...]
    parameters: int
    layers: int
    executed_layers: int
    forward_flops: int
    training_flops: int


@dataclass(frozen=True)
class TowersDifference:
    """Two models of towers compared: as wholes, and ``towers`` of one name one by one."""

    left: TowersSide
    right: TowersSide
    same_model: bool
    towers: Mapping[str, Difference]
    only_left: tuple[str, ...]
    only_right: tuple[str, ...]

    def words(self) -> list[str]:
        """What there is to say, a sentence each."""
        left, right = self.left, self.right
        if self.same_model:
            sentences = [f"{left.signature} and {right.signature} are the same model."]
        else:
            sentences = [f"{left.signature} and {right.signature} are different models."]
        for side, names in ((left, self.only_left), (right, self.only_right)):
            if names:
                sentences.append(f"Only {side.signature} has {listed(names, MAX_LISTED)}.")
        for name, tower in self.towers.items():
            first, *more = tower.words()
            if not (tower.same_model and tower.same_dials):
                sentences.append(" ".join([f"{name}: {first}", *more]))
        alike = all(tower.same_model for tower in self.towers.values())
        if not self.same_model and alike and not (self.only_left or self.only_right):
            sentences.append("They share other blocks between their towers.")
        return sentences

    def as_dict(self) -> dict[str, object]:
        """Plain data for JSON."""
        towers = {name: tower.as_dict() for name, tower in self.towers.items()}
        return {**asdict(self), "towers": towers, "words": self.words()}


def diff_towers(left: TowersSpec, right: TowersSpec) -> TowersDifference:
    """`diff` of two models of towers; raises `SpecError` for anything else."""
    one, other = require_towers(left).towers, require_towers(right).towers
    sides = _towers_side(left), _towers_side(right)
    return TowersDifference(
        sides[0],
        sides[1],
        same_model=sides[0].fingerprint == sides[1].fingerprint,
        towers={name: diff(one[name], other[name]) for name in one if name in other},
        only_left=tuple(name for name in one if name not in other),
        only_right=tuple(name for name in other if name not in one),
    )


def _towers_side(spec: TowersSpec) -> TowersSide:
    report = cost_report(spec)
    return TowersSide(
        signature=report.signature,
        fingerprint=fingerprint(spec),
        shared_blocks=report.shared_blocks,
        parameters=report.stored_params,
        layers=report.stored_layers,
        executed_layers=report.executed_layers,
        forward_flops=report.forward_flops,
        training_flops=report.training_flops,
    )


def _dimensions(left: ModelSpec, right: ModelSpec) -> dict[str, tuple[object, object]]:
    """The keys, signatures apart, whose values differ."""
    values, others = dimensions_of(left), dimensions_of(right)
    return {
        key: (value, others[key])
        for key, value in values.items()
        if key in others and value != others[key]
    }


def _side(graph: BlockGraph) -> Side:
    report: CostReport = cost_report(graph)
    return Side(
        signature=report.signature,
        fingerprint=fingerprint(graph.spec),
        blocks=tuple(_block_text(graph, name) for name in graph.blocks),
        dials=tuple(_dial_text(loop) for loop in graph.dials()),
        schedule=schedule_text(graph, MAX_LISTED),
        parameters=report.stored_params,
        layers=report.stored_layers,
        executed_layers=report.executed_layers,
        forward_flops_per_token=report.forward_flops_per_token,
        training_flops_per_token=report.training_flops_per_token,
        kv_bytes_per_token=report.memory.kv_bytes_per_token,
        expected_rounds=report.expected_rounds,
    )


def _block_text(graph: BlockGraph, name: str) -> str:
    """``A[6]``, with what makes its layers others than the model's."""
    block = graph.blocks[name]
    more = [f"tie={block.tie}"] if block.tie else []
    more += [f"kind={block.kind}"] if block.kind != layers_kind(graph.spec.kind) else []
    return f"{name}[{block.layers}]" + (f"{{{', '.join(more)}}}" if more else "")


def _dial_text(loop: Loop) -> str:
    options = f", {loop.options.text}" if loop.options.text else ""
    return f"{loop.name} ({plural(loop.rounds, 'round')}{options})"


def _dials(graph: BlockGraph) -> Iterator[tuple[object, ...]]:
    """What each dial turns, whatever it is called."""
    return ((loop.rounds, loop.options, layers) for loop, layers in turned_layers(graph))


def _shared_start(left: Sequence[Run], right: Sequence[Run]) -> int:
    """How many layers run alike; the last item of each list is the end of the model."""
    for index, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return index
    return min(len(left), len(right)) - 1


def difference_tables(difference: Difference | TowersDifference) -> list[Table]:
    """Both sides beside each other: what they are, and their figures."""
    if isinstance(difference, TowersDifference):
        return [_towers_figures(difference)]
    left, right = difference.left, difference.right
    heads = [short_text(side.signature, HEAD_WIDTH) for side in (left, right)]
    facts = [
        ("fingerprint (with dimensions)", left.fingerprint, right.fingerprint),
        ("blocks", *(listed(side.blocks, MAX_LISTED) for side in (left, right))),
        ("layers run", left.schedule, right.schedule),
        ("dials", *(listed(side.dials, MAX_LISTED) or "-" for side in (left, right))),
        *((key, str(one), str(other)) for key, (one, other) in difference.dimensions.items()),
    ]
    rows = [
        ("parameters", left.parameters, right.parameters, rounded_count),
        ("layers executed", left.executed_layers, right.executed_layers, exact),
        (
            "forward FLOPs per token",
            left.forward_flops_per_token,
            right.forward_flops_per_token,
            rounded_flops,
        ),
        (
            "training FLOPs per token",
            left.training_flops_per_token,
            right.training_flops_per_token,
            rounded_flops,
        ),
        ("cache per token", left.kv_bytes_per_token, right.kv_bytes_per_token, rounded_bytes),
    ]
    expected = (rounds_text(left.expected_rounds), rounds_text(right.expected_rounds))
    figures = [*_with_ratios(rows), ("expected rounds", *expected, "")]
    return [
        Table(("", *heads), facts, left=(0, 1, 2)),
        Table(("", *heads, "right over left"), figures),
    ]


def _towers_figures(difference: TowersDifference) -> Table:
    left, right = difference.left, difference.right
    rows = [
        ("parameters", left.parameters, right.parameters, rounded_count),
        ("layers executed", left.executed_layers, right.executed_layers, exact),
        ("forward FLOPs, a sequence each", left.forward_flops, right.forward_flops, rounded_flops),
        (
            "training FLOPs, a sequence each",
            left.training_flops,
            right.training_flops,
            rounded_flops,
        ),
    ]
    shared = [listed(side.shared_blocks, MAX_LISTED) or "-" for side in (left, right)]
    names = ("fingerprint (with dimensions)", left.fingerprint, right.fingerprint, "")
    figures = [names, ("shared blocks", *shared, ""), *_with_ratios(rows)]
    return Table(("", "left", "right", "right over left"), figures)


def _with_ratios(
    rows: Iterable[tuple[str, int, int, Callable[[int], str]]],
) -> list[tuple[str, str, str, str]]:
    return [(name, show(one), show(other), ratio(other, one)) for name, one, other, show in rows]
