"""A pretrained stack as a recursive one: which of its layers become which block.

Ranges are inclusive and count the layers of the source from 0. Of 30 layers,

    P A^2 C   with   P=0..11, A=12..17, C=18..29

runs layers 12 to 17 twice. Where a block is written with fewer layers than its range has, as A[6]
for 0..17, layers become tied: `TIES` says which of the range a layer of the block starts as.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

from rinsc.errors import Problem, SpecError, listed, plural, setting
from rinsc.graph import build_graph
from rinsc.layers import trace_programs
from rinsc.spec import ModelSpec, spec_from_values
from rinsc.spec.model import field_values
from rinsc.syntax import parse, to_text
from rinsc.syntax.normal import letter_sizes, spread
from rinsc.syntax.tree import BlockRef, Signature, rewritten

Range: TypeAlias = tuple[int, int]  # first and last layer of the source, both included
Layers: TypeAlias = tuple[int, ...]  # of the source, whose mean a layer starts as
Source: TypeAlias = tuple[str, int]  # the block of a layer and its number in it


def _spaced(first: int, last: int, size: int) -> list[Layers]:
    """Evenly spaced layers, the first and the last among them."""
    steps = max(1, size - 1)
    return [(first + (index * (last - first) + steps // 2) // steps,) for index in range(size)]


def _lower(first: int, last: int, size: int) -> list[Layers]:
    return [(first + index,) for index in range(size)]


def _average(first: int, last: int, size: int) -> list[Layers]:
    """The mean of the layers whose place a layer takes, round by round."""
    return [tuple(range(first + index, last + 1, size)) for index in range(size)]


# What a layer starts as where a block has fewer than its range (arXiv 2410.20672, section 2.2).
TIES: Mapping[str, Callable[[int, int, int], list[Layers]]] = {
    "slice": _spaced,
    "average": _average,
    "lower": _lower,
}


@dataclass(frozen=True)
class Retrofit:
    """What a source becomes: ``layers`` are those of the source that each stored layer of a block
    starts as, counted over the whole stack."""

    source: ModelSpec
    spec: ModelSpec
    ranges: Mapping[str, Range]
    layers: Mapping[str, tuple[Layers, ...]]
    dropped: tuple[int, ...]

    @property
    def is_exact(self) -> bool:
        """Whether one round of every repeat is the source itself."""
        return not self.dropped and not any(map(self.is_tied, self.ranges))

    def is_tied(self, block: str) -> bool:
        """Whether the block has fewer layers than those that it takes the place of."""
        first, last = self.ranges[block]
        there = set(range(first, last + 1)) - set(self.dropped)
        return len(self.layers[block]) < len(there)

    def sources(self) -> tuple[Source, ...]:
        """Each layer of the source by its block there, in the order of the stack."""
        return stack(self.source)

    def words(self) -> list[str]:
        """Which layers each block has, a line each."""
        lines = []
        for name, (first, last) in self.ranges.items():
            size, visits = len(self.layers[name]), self.spec.normal.visits
            times = sum(ref.letter == name for ref in visits)
            span = f"layer {first}" if first == last else f"layers {first} to {last}"
            tied = f", tied to {plural(size, 'layer')}" if self.is_tied(name) else ""
            lines.append(f"{name}: {span}{tied}, visited {plural(times, 'time')}")
        if self.dropped:
            lines.append(f"dropped: {plural(len(self.dropped), 'layer')} of the source")
        return lines


def stack(spec: ModelSpec) -> tuple[Source, ...]:
    """Each stored layer by its block and its number there, in the order of the stack."""
    return tuple((name, index) for name, size in spec.parts.items() for index in range(size))


def retrofit_plan(
    source: ModelSpec,
    signature: str | Signature,
    *,
    ranges: Mapping[str, Range] | None = None,
    drop: Sequence[Range] = (),
    init: str | None = None,
) -> Retrofit:
    """Which layers of ``source`` the blocks of ``signature`` are made of.

    Without ``ranges`` the layers are shared out as a spec of that signature does. ``drop`` leaves
    layers of the source out; ``init`` is one of `TIES`. Raises `SpecError`, with every mistake, for
    ranges that overlap, leave a gap, run backwards or beyond the end; for blocks without a range;
    and for layers that become one block and differ in what they compute.

    >>> from rinsc import model_spec
    >>> plan = retrofit_plan(model_spec("A", preset="tiny"), "P A^2 C", ranges={
    ...     "P": (0, 3), "A": (4, 7), "C": (8, 11)})
    >>> plan.spec.text, plan.is_exact
    ('P[4]A[4]^2C[4]', True)
    """
    require_plain(source)
    tree = parse(signature) if isinstance(signature, str) else signature
    if tree.degree > 1:
        message = f"'{to_text(tree)}' has a degree, whose parts have no ranges"
        raise SpecError("bad-range", message, hint="write the parts as blocks of their own")
    dropped = _dropped(drop, source.layers)
    kept = [index for index in range(source.layers) if index not in dropped]
    sizes = letter_sizes(tree)
    if ranges is None:
        ranges = _shared_out(sizes, kept)
    _check_ranges(ranges, list(sizes), kept, source.layers)
    layers = {
        name: tuple(_block_layers(name, ranges[name], size, dropped, init))
        for name, size in sizes.items()
    }
    own = {name: len(block) for name, block in layers.items()}
    sized = replace(tree, body=rewritten(tree.body, ref=lambda ref: _sized(ref, own)))
    spec = _spec(source, sized, [group for block in layers.values() for group in block])
    plan = Retrofit(source, spec, dict(ranges), layers, tuple(sorted(dropped)))
    _check_same_layers(plan)
    return plan


def repeated_ranges(layers: int, blocks: Sequence[Range]) -> tuple[str, dict[str, Range]]:
    """The signature that runs each of the ranges twice, and its own ranges.

    ``blocks`` are as RYS writes them: (12, 16) runs layers 12 to 15 twice.

    >>> repeated_ranges(30, [(12, 16)])
    ('AB^2C', {'A': (0, 11), 'B': (12, 15), 'C': (16, 29)})
    """
    ends = [0]
    for start, end in blocks:
        if not ends[-1] <= start < end <= layers:
            message = f"blocks {start},{end} are no layers of {layers} that come after those before"
            hint = "write them in order: 12,16 runs layers 12 to 15 twice"
            raise SpecError("bad-range", message, hint=hint)
        ends += [start, end]
    bounds = [*ends, layers]
    text, ranges = "", dict[str, Range]()
    for index, (start, end) in enumerate(pairwise(bounds)):
        if start < end:
            letter = _letter(len(ranges))
            ranges[letter] = start, end - 1
            text += f"{letter}^2" if index % 2 else letter
    return text, ranges


def _letter(index: int) -> str:
    letter = chr(ord("A") + index % 26)
    return letter if index < 26 else f"{letter}{index // 26}"


def _length(own: Range) -> int:
    return own[1] - own[0] + 1


def require_plain(source: ModelSpec) -> None:
    """Raises `SpecError` for a model that visits a block twice, or ties its layers."""
    graph = build_graph(source)
    visits = graph.visit_counts()
    if any(count != 1 for count in visits.values()) or any(b.tie for b in graph.blocks.values()):
        message = f"'{source.text}' is recursive already, or ties its layers"
        hint = "name a model that visits each block once, such as one that rinsc import wrote"
        raise SpecError("not-a-plain-stack", message, place="source", hint=hint)


def _dropped(drop: Sequence[Range], layers: int) -> set[int]:
    dropped: set[int] = set()
    for first, last in drop:
        if not 0 <= first <= last < layers:
            message = f"layers {first}..{last} cannot be dropped of {layers}, which count from 0"
            hint = f"both ends are included: 0..{layers - 1} are all"
            raise SpecError("bad-range", message, place="drop", hint=hint)
        dropped |= set(range(first, last + 1))
    if len(dropped) == layers:
        raise SpecError("bad-range", "no layer is left", place="drop", hint="drop fewer")
    return dropped


def _shared_out(sizes: Mapping[str, int | None], kept: Sequence[int]) -> dict[str, Range]:
    """Ranges of as many layers as the letters say, the rest shared out, as in any spec."""
    unsized = [name for name, size in sizes.items() if size is None]
    rest = len(kept) - sum(size for size in sizes.values() if size is not None)
    if rest < len(unsized) or (rest and not unsized):
        message = f"the sizes of the blocks do not make {plural(len(kept), 'layer')}"
        hint = f"say which layers each block has: {setting('layers', '--layers')}"
        raise SpecError("bad-range", message, place="layers", hint=hint)
    shares = dict(zip(unsized, spread(rest, len(unsized)) if unsized else (), strict=True))
    ranges, start = dict[str, Range](), 0
    for name, size in sizes.items():
        count = shares[name] if size is None else size
        ranges[name] = kept[start], kept[start + count - 1]
        start += count
    return ranges


def _check_ranges(
    ranges: Mapping[str, Range], letters: Sequence[str], kept: Sequence[int], layers: int
) -> None:
    problems: list[str] = []
    without = [name for name in letters if name not in ranges]
    if without:
        problems.append(f"{listed(without, 8)} has no layers")
    unknown = [name for name in ranges if name not in letters]
    if unknown:
        problems.append(f"{listed(unknown, 8)} is no block of the signature")
    before, end = "", -1
    for name in (name for name in letters if name in ranges):
        first, last = ranges[name]
        lost = [index for index in kept if end < index < first]
        if first > last:
            problems.append(f"{name}={first}..{last} runs backwards")
        elif last >= layers:
            problems.append(f"{name}={first}..{last} goes beyond layer {layers - 1}, the last one")
        elif first <= end:
            problems.append(f"{name}={first}..{last} overlaps {before}, which comes before")
        elif lost:
            problems.append(f"{_layers(lost)} before {name} in no block")
        elif not any(first <= index <= last for index in kept):
            problems.append(f"all of {name}={first}..{last} is dropped")
        before, end = name, max(end, first, last)
    lost = [index for index in kept if index > end]
    if lost and not problems:
        problems.append(f"{_layers(lost)} after {before} in no block")
    if problems:
        hint = f"blocks follow each other from 0 to {layers - 1}, both ends included: A=0..11"
        raise SpecError.of(
            *(Problem("bad-range", text, place="layers", hint=hint) for text in problems)
        )


def _layers(lost: Sequence[int]) -> str:
    if len(lost) == 1:
        return f"layer {lost[0]} is"
    return f"layers {lost[0]} to {lost[-1]} are"


def _block_layers(
    name: str, own: Range, size: int | None, dropped: set[int], init: str | None
) -> list[Layers]:
    first, last = own
    there = [index for index in range(first, last + 1) if index not in dropped]
    if size is None or size == len(there):
        return [(index,) for index in there]
    problem = None
    if size > len(there):
        problem = f"block {name} is written with {plural(size, 'layer')}"
        hint = f"its range has {len(there)}: leave the size out"
    elif len(there) < _length(own):
        problem = f"block {name} ties layers, and some of its range are dropped"
        hint = "do one of the two"
    elif init is None:
        problem = f"{len(there)} layers become {size} in block {name}"
        hint = f"say what they start as: {setting('init', '--init')} {'|'.join(TIES)}"
    elif init not in TIES:
        problem = f"'{init:.40}' is no way to start tied layers"
        hint = f"one of {', '.join(TIES)}"
    elif init == "average" and len(there) % size:
        problem = f"{len(there)} layers are no whole number of rounds of {size} in block {name}"
        hint = "choose a size that divides, or another init"
    if problem is not None:
        raise SpecError("bad-range", problem, place="init", hint=hint)
    return TIES[str(init)](first, last, size)


def _sized(ref: BlockRef, sizes: Mapping[str, int]) -> BlockRef:
    return replace(ref, size=sizes[ref.letter])


def _spec(source: ModelSpec, signature: Signature, groups: Sequence[Layers]) -> ModelSpec:
    """The spec, with patterns of the stack that give each layer what its source had."""
    values: dict[str, Any] = {**field_values(source), "signature": to_text(signature)}
    values["layers"] = len(groups)
    settings = {kind: dict(table) for kind, table in source.settings.items()}
    for table in settings.values():
        pattern = table.get("pattern")
        if isinstance(pattern, str):
            table["pattern"] = pattern_of(pattern, [group[0] for group in groups])
    values["settings"] = settings
    return spec_from_values({key: value for key, value in values.items() if value is not None})


def pattern_of(pattern: str, layers: Sequence[int]) -> str:
    """The pattern of a stack that has these layers of another one, which has ``pattern``.

    >>> pattern_of("lllg", [0, 1, 2, 3]), pattern_of("lllg", [0, 1, 3, 3])
    ('lllg', 'llgg')
    """
    letters = "".join(pattern[layer % len(pattern)] for layer in layers)
    own = (pattern * len(letters))[: len(letters)]
    return pattern if letters == own else letters


def _check_same_layers(plan: Retrofit) -> None:
    """Every layer computes what those did that it starts as."""
    before = trace_programs(plan.source).layers
    after = trace_programs(plan.spec).layers
    sources = plan.sources()
    for name, groups in plan.layers.items():
        for index, group in enumerate(groups):
            keys = {before[sources[k][0]][sources[k][1]].key for k in group}
            if keys != {after[name][index].key}:
                layers = listed([str(k) for k in group], 8)
                message = f"layer {index} of block {name} computes something else than "
                message += f"layer {layers} of the source"
                hint = "layers that differ in kind, window or positions cannot become one; "
                hint += "choose ranges of layers that are alike"
                raise SpecError("layers-differ", message, place="layers", hint=hint)
