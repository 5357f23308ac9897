"""A tree as lines of visits: repeats unfolded but for those with options, blocks as layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from rinsc.syntax.canonical import is_kept
from rinsc.syntax.options import effective_of
from rinsc.syntax.settings import RepeatOptions, repeat_options, visit_options
from rinsc.syntax.tree import BlockRef, Node, Repeat, Sequence


class PartVisit(NamedTuple):
    """One visit of a part; see `VisitOptions`."""

    part: str
    each: int
    reverse: bool


class KeptRepeat(NamedTuple):
    """A repeat with options; one inside a plain repeat stands in its line many times."""

    line: Line
    rounds: int
    options: RepeatOptions
    owner: int


Line: TypeAlias = list[PartVisit | KeptRepeat]


def line_of(node: Node) -> Line:
    """The line of a tree whose exponents are bound."""
    match node:
        case BlockRef(letter, _, options):
            if not options:
                return [PartVisit(letter, 1, False)]
            own = visit_options(options)
            return [PartVisit(letter, own.each, own.reverse)]
        case Sequence(items):
            return [step for item in items for step in line_of(item)]
        case Repeat(body, int(count)) if not is_kept(node):
            return line_of(body) * count
        case Repeat(body, int(count)):
            said = repeat_options(effective_of(node))
            return [KeptRepeat(line_of(body), count, said, node.owner)]
    raise TypeError(f"not a bound tree: {node}")


def lines_in(line: Line) -> Iterator[Line]:
    """A line and the lines inside its repeats, in order of execution, each once."""
    yield line
    for step in _distinct_repeats(line):
        yield from lines_in(step.line)


def visits_in(line: Line) -> Iterator[PartVisit]:
    """The visits in order of execution, with those of a kept repeat once."""
    seen: set[int] = set()
    for step in line:
        if isinstance(step, PartVisit):
            yield step
        elif id(step) not in seen:
            seen.add(id(step))
            yield from visits_in(step.line)


def with_layers(line: Line, sizes: Mapping[str, int]) -> Line:
    """The line with the visits of the parts in ``sizes`` written out as visits of their layers."""
    repeats = {
        id(step): step._replace(line=with_layers(step.line, sizes))
        for step in _distinct_repeats(line)
    }
    out: Line = []
    for step in line:
        if isinstance(step, KeptRepeat):
            out.append(repeats[id(step)])
        elif step.part in sizes:
            layers = [
                PartVisit(layer_name(step.part, i), 1, False) for i in range(sizes[step.part])
            ]
            ordered = reversed(layers) if step.reverse else layers
            out += [layer for layer in ordered for _ in range(step.each)]
        else:
            out.append(step)
    return out


def layer_name(part: str, index: int) -> str:
    """What a layer is called that stands as a part of its own."""
    return f"{part}.{index}"


def directed(line: Line, is_reversed: Callable[[PartVisit], bool]) -> Line:
    """The line with the direction of each visit said by ``is_reversed``."""
    repeats = {
        id(step): step._replace(line=directed(step.line, is_reversed))
        for step in _distinct_repeats(line)
    }
    return [
        repeats[id(step)]
        if isinstance(step, KeptRepeat)
        else step._replace(reverse=is_reversed(step))
        for step in line
    ]


def _distinct_repeats(line: Line) -> list[KeptRepeat]:
    return list({id(step): step for step in line if isinstance(step, KeptRepeat)}.values())
