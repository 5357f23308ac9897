"""From the rolled tree to flat words of visits, and the limits that keep them small.

A `Line` is a word that keeps the repeats with options as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from rinsc.errors import Problem, SignatureError, Span, setting
from rinsc.syntax.options import effective_of, is_kept, largest_draw, smallest_draw
from rinsc.syntax.settings import RepeatOptions, repeat_options, visit_options
from rinsc.syntax.tree import (
    MAX_DRAWN_VISITS,
    MAX_LOOP_DEPTH,
    MAX_NESTING,
    MAX_TEXT,
    MAX_VISITS,
    BlockRef,
    Node,
    Repeat,
    Sequence,
    Signature,
    repeats,
    to_text,
)

_Rounds: TypeAlias = Callable[[Repeat], int]


def visit_count(sig: Signature) -> int:
    """How many blocks are visited, degree included; a visit with ``each=n`` counts as n.

    Arithmetic only, nothing is expanded. Raises SignatureError (``unbound-exponent``) while an
    exponent is free.
    """
    require_bound(sig)
    count: int = _count(sig.body, _rounds_written) ** sig.degree
    return count


def check_limits(sig: Signature) -> None:
    """Raises SignatureError for what is too large to compile.

    ``too-many-visits`` (at the rounds written, or at the most that training can draw),
    ``too-deep`` and ``text-too-long`` (as printed). A free exponent counts as 1.
    """
    if len(to_text(sig)) > MAX_TEXT:
        message = f"written out, the signature has more than {MAX_TEXT} characters"
        hint = "write fewer options or groups"
        raise SignatureError(
            "text-too-long", message, source=sig.source, span=sig.body.span, hint=hint
        )
    _check_visits(sig, _rounds_written, MAX_VISITS, "")
    _check_visits(sig, most_rounds, MAX_DRAWN_VISITS, " at the most rounds that can be drawn")
    if _loop_depth(sig.body) * sig.degree > MAX_LOOP_DEPTH:
        raise SignatureError(
            "too-deep",
            f"repeats lie more than {MAX_LOOP_DEPTH} deep inside one another",
            source=sig.source,
            span=degree_span(sig) if sig.degree > 1 else sig.body.span,
            hint="multiply nested powers out, or lower the degree",
        )
    if (_nesting(sig.body) + 1) * sig.degree - 1 > MAX_NESTING:
        raise SignatureError(
            "too-deep",
            f"degree {sig.degree} nests parentheses more than {MAX_NESTING} deep",
            source=sig.source,
            span=degree_span(sig),
            hint="drop needless parentheses, or lower the degree",
        )


def _check_visits(sig: Signature, rounds: _Rounds, most: int, when: str) -> None:
    visits = _count(sig.body, rounds)
    if visits > most:
        span = _first_too_large(sig.body, rounds, most).span
    elif visits**sig.degree > most:
        span = degree_span(sig)
    else:
        return
    count = visits**sig.degree
    number = str(count) if count < 10**9 else "more than a billion"
    raise SignatureError(
        "too-many-visits",
        f"{number} visits of blocks{when}; at most {most} are possible",
        source=sig.source,
        span=span,
        hint="lower the powers or the degree"
        if not when
        else "draw fewer rounds, or lower the powers",
    )


def _loop_depth(node: Node) -> int:
    """How many repeats lie inside one another."""
    match node:
        case BlockRef():
            return 0
        case Sequence(items):
            return max(map(_loop_depth, items), default=0)
        case Repeat(body):
            return 1 + _loop_depth(body)


def exponent_hint(name: str) -> str:
    """How to give an exponent its value."""
    in_python = f"bind={{'{name}': 3}}"
    return f"give it one: {setting(in_python, f'--set {name}=3')}"


def require_bound(sig: Signature) -> None:
    """Raises SignatureError (``unbound-exponent``) with one problem for each free exponent."""
    problems: list[Problem] = []
    for name, span in free_exponents(sig).items():
        error = SignatureError(
            "unbound-exponent",
            f"the exponent '{name}' has no value",
            source=sig.source,
            span=span,
            hint=exponent_hint(name),
        )
        problems.extend(error.problems)
    if problems:
        raise SignatureError.of(*problems)


def free_exponents(sig: Signature) -> dict[str, Span]:
    """The names of the free exponents, each with the span of the first repeat that has it."""
    names: dict[str, Span] = {}
    for repeat in repeats(sig.body):
        if isinstance(repeat.count, str):
            names.setdefault(repeat.count, repeat.span)
    return names


def flatten(node: Node, keep: Callable[[Repeat], bool]) -> list[BlockRef | Repeat]:
    """The word of a tree, with the repeats that ``keep`` chooses left whole."""
    match node:
        case BlockRef():
            return [node]
        case Sequence(items):
            return [node for item in items for node in flatten(item, keep)]
        case Repeat(body, int(count)) if not keep(node):
            return flatten(body, keep) * count
        case Repeat():
            return [node]


def _rounds_written(repeat: Repeat) -> int:
    return repeat.count if isinstance(repeat.count, int) else 1


def most_rounds(repeat: Repeat) -> int:
    """The most rounds of a repeat: those written or, where it is more, its largest draw."""
    written = _rounds_written(repeat)
    if not repeat.options:
        return written
    sample = repeat_options(repeat.options).sample
    return written if sample is None else max(written, largest_draw(sample))


def fewest_rounds(repeat: Repeat, written: int) -> int:
    """The fewest rounds that training runs a repeat of ``written`` rounds for."""
    options = repeat_options(repeat.options)
    if options.sample is not None:
        return smallest_draw(options.sample)
    return 1 if options.skip else written


def _count(node: Node, rounds: _Rounds) -> int:
    """Visits below ``node``, with free exponents as 1."""
    match node:
        case BlockRef():
            return visit_options(node.options).each if node.options else 1
        case Sequence(items):
            return sum([_count(item, rounds) for item in items])
        case Repeat(body):
            return _count(body, rounds) * rounds(node)


def _nesting(sequence: Sequence) -> int:
    """How many parentheses deep the groups inside ``sequence`` go."""
    bodies = (item.body if isinstance(item, Repeat) else item for item in sequence.items)
    return max((1 + _nesting(body) for body in bodies if isinstance(body, Sequence)), default=0)


def _first_too_large(node: Node, rounds: _Rounds, most: int) -> Node:
    """The innermost node that has too many visits by itself."""
    children: tuple[Node, ...] = ()
    if isinstance(node, Sequence):
        children = node.items
    elif isinstance(node, Repeat):
        children = (node.body,)
    for child in children:
        if _count(child, rounds) > most:
            return _first_too_large(child, rounds, most)
    return node


def degree_span(sig: Signature) -> Span:
    """Where ``@d`` is written; the body where the text has no degree."""
    start = sig.source.rfind("@")
    return Span(start, len(sig.source.rstrip())) if start >= 0 else sig.body.span


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
            settings = repeat_options(effective_of(node))
            return [KeptRepeat(line_of(body), count, settings, node.owner)]
    raise TypeError(f"not a bound tree: {node}")


def lines_in(line: Line) -> Iterator[Line]:
    """A line and the lines inside its repeats, in order of execution, each once."""
    yield line
    for step in _distinct_repeats(line):
        yield from lines_in(step.line)


def visits_in(line: Line) -> Iterator[PartVisit]:
    """The visits in order of execution, with those of a kept repeat once."""
    known: set[int] = set()
    for step in line:
        if isinstance(step, PartVisit):
            yield step
        elif id(step) not in known:
            known.add(id(step))
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
