"""The zoo: published architectures as model specs, their sources, and what they claim."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from rinsc.cost import (
    expected_rounds,
    stored_params,
    training_flops,
    training_flops_per_token,
)
from rinsc.cost.params import adapter_params, share_text
from rinsc.errors import Problem, RinscError, SpecError, did_you_mean
from rinsc.extras import zoo_dir
from rinsc.graph import build_graph
from rinsc.graph.towers_graph import dial_of, towers_of
from rinsc.scalars import Table, exact, rounded_count, short_text
from rinsc.spec import ModelSpec, model_spec
from rinsc.spec.checks import MAX_SHOWN, at_key, shown, unknown_keys
from rinsc.spec.reading import read_toml
from rinsc.spec.towers import AnySpec, like
from rinsc.variants.costed import rounds_text, visited_once


@dataclass(frozen=True)
class Source:
    """Where an architecture is published; ``note`` says where the entry differs, and what in it is
    not the paper's. One of ``arxiv`` and ``url`` is given."""

    title: str
    year: int
    arxiv: str | None = None
    url: str | None = None
    note: str | None = None

    @property
    def reference(self) -> str:
        """``arXiv 2502.07503``, else the address."""
        return self.url or "" if self.arxiv is None else f"arXiv {self.arxiv}"


@dataclass(frozen=True)
class Expectation:
    """What an entry expects: published, or worked out from its dimensions. Tolerances are relative,
    and 0 where nothing was rounded.

    ``cost_ratio`` is training FLOPs per token, in expectation where rounds are drawn, against
    ``baseline``, a signature at the same dimensions: the same blocks visited once each, or another
    model that the source compares with. ``max_adapter_share`` bounds the parameters of
    adapters over all parameters.
    """

    parameters: int
    parameters_tolerance: float = 0.0
    executed_layers: int | None = None
    baseline: str | None = None
    cost_ratio: float | None = None
    cost_ratio_tolerance: float = 0.0
    max_adapter_share: float | None = None


@dataclass(frozen=True)
class ZooEntry:
    """A published architecture: its spec, where it is from, what it expects."""

    name: str
    source: Source
    expect: Expectation
    path: Path = field(repr=False)

    @cached_property
    def spec(self) -> AnySpec:
        """The model at its published dimensions; raises `SpecError` for a file that is none."""
        return model_spec(self.path)

    @cached_property
    def baseline(self) -> AnySpec | None:
        """What its expected cost is compared with."""
        baseline = self.expect.baseline
        return None if baseline is None else like(self.spec, baseline)


def zoo_entries() -> list[ZooEntry]:
    """Every entry, by name. Raises `SpecError` with every mistake of every file."""
    entries: list[ZooEntry] = []
    problems: list[Problem] = []
    for path in sorted(zoo_dir().glob("*.toml"), key=lambda path: path.stem):
        try:
            entries.append(read_entry(path))
        except RinscError as error:
            problems += error.problems
    if problems:
        raise SpecError.of(*problems)
    return entries


def zoo_entry(name: str) -> ZooEntry:
    """The entry of this name, the name of its file, or of a TOML file with the same tables.

    Raises `SpecError` for another name.
    """
    if name.endswith(".toml"):
        return read_entry(Path(name))
    names = sorted(path.stem for path in zoo_dir().glob("*.toml"))
    if name not in names:
        message = f"{shown(name)} is not in the zoo"
        hint = did_you_mean(name.lower()[:MAX_SHOWN], names)
        raise SpecError("unknown-entry", message, hint=hint)
    return read_entry(zoo_dir() / f"{name}.toml")


def read_entry(path: Path) -> ZooEntry:
    """The entry of a file. Raises `SpecError` with every mistake of its two tables."""
    tables = read_toml(path)
    problems: list[Problem] = []
    source = _table(Source, "source", tables, problems, path)
    expect = _table(Expectation, "expect", tables, problems, path)
    if source is not None and source.arxiv is None and source.url is None:
        message = "the source has neither 'arxiv' nor 'url'"
        location = at_key(str(path), "source")
        problems.append(Problem("missing-key", message, place=location, hint="add 'arxiv'"))
    if expect is not None and (expect.baseline is None) != (expect.cost_ratio is None):
        message = "'baseline' and 'cost_ratio' belong together"
        location = at_key(str(path), "expect")
        problems.append(Problem("missing-key", message, place=location, hint="give both, or none"))
    if problems or source is None or expect is None:
        raise SpecError.of(*problems)
    return ZooEntry(path.stem, source, expect, path)


_Table = TypeVar("_Table", Source, Expectation)


def _table(
    kind: type[_Table], name: str, tables: Mapping[str, Any], problems: list[Problem], path: Path
) -> _Table | None:
    """One table as its dataclass; None where ``problems`` says why not."""
    values, known = tables.get(name), {item.name: item for item in fields(kind)}
    location = f"{path}: {name}"
    if not isinstance(values, dict):
        message = f"a zoo entry needs the table [{name}]"
        hint = f"add [{name}] with {', '.join(known)}"
        problems.append(Problem("missing-table", message, place=str(path), hint=hint))
        return None
    before = len(problems)
    types = get_type_hints(kind)
    problems += unknown_keys(values, known, f"[{name}]", lambda key: location)
    for key, value in values.items():
        if key in known and not _fits(value, types[key]):
            message = f"'{key}' of [{name}] cannot be {shown(value)}"
            problems.append(Problem("bad-value", message, place=location, hint=f"change '{key}'"))
    for key, item in known.items():
        if item.default is MISSING and key not in values:
            message = f"[{name}] has no '{key}'"
            problems.append(Problem("missing-key", message, place=location, hint=f"add '{key}'"))
    return kind(**values) if len(problems) == before else None


def _fits(value: object, type_of_key: Any) -> bool:
    """Whether a value of a file is of the type of its field; numbers must not be below 0."""
    kinds = get_args(type_of_key) or (type_of_key,)
    if isinstance(value, bool) or (isinstance(value, int | float) and not value >= 0):
        return False
    return type(value) in kinds or (float in kinds and type(value) is int)


@dataclass(frozen=True)
class Figures:
    """What an entry costs; ``cost_ratio`` is that of training FLOPs per token against ``baseline``,
    the same blocks visited once each."""

    signature: str
    parameters: int
    executed_layers: int
    cost_ratio: float
    baseline: str
    adapter_share: float
    expected_rounds: Mapping[str, int | float]

    def lines(self) -> list[str]:
        """What stands below the claims of an entry."""
        return [
            f"cost ratio                   {self.cost_ratio:.3f} against {self.baseline}",
            f"expected rounds in training  {rounds_text(self.expected_rounds)}",
            f"share of adapters            {share_text(self.adapter_share)}",
        ]


@dataclass(frozen=True)
class Claim:
    """What the entry expects, published or worked out from its dimensions, and what we count.

    ``tolerance`` is relative, and None bounds from above.
    """

    name: str
    expected: int | float
    here: int | float
    tolerance: float | None

    @property
    def holds(self) -> bool:
        if self.tolerance is None:
            return self.here <= self.expected
        return abs(self.here - self.expected) <= self.tolerance * self.expected


def figures(entry: ZooEntry) -> Figures:
    """The costs of an entry at its published dimensions, counted without any weights."""
    graph = build_graph(entry.spec)
    parameters = stored_params(graph)
    baseline = _visited_once(entry.spec)
    return Figures(
        signature=entry.spec.text,
        parameters=parameters,
        executed_layers=graph.executed_layers(),
        cost_ratio=_cost_ratio(entry.spec, baseline),
        baseline=baseline.text,
        adapter_share=sum(map(adapter_params, towers_of(graph).values())) / parameters,
        expected_rounds={
            dial_of(name, loop) if name else loop: count
            for name, tower in towers_of(graph).items()
            for loop, count in expected_rounds(tower).items()
        },
    )


def _visited_once(spec: AnySpec) -> AnySpec:
    """`visited_once`, of towers tower by tower."""
    if isinstance(spec, ModelSpec):
        return visited_once(spec)
    texts = [f"{name}: {visited_once(tower).text}" for name, tower in spec.towers.items()]
    return like(spec, ", ".join(texts))


def _cost_ratio(spec: AnySpec, other: AnySpec) -> float:
    """Training FLOPs of a token over those of the other; of towers those of a pair."""
    if isinstance(spec, ModelSpec) and isinstance(other, ModelSpec):
        own = training_flops_per_token(spec, spec.context)
        return own / training_flops_per_token(other, other.context)
    return training_flops(spec, spec.context) / training_flops(other, other.context)


def claims(entry: ZooEntry, costs: Figures) -> Iterator[Claim]:
    """Everything that the entry expects, beside the figures found."""
    expect = entry.expect
    tolerance = expect.parameters_tolerance
    yield Claim("parameters", expect.parameters, costs.parameters, tolerance)
    if expect.executed_layers is not None:
        yield Claim("layers executed", expect.executed_layers, costs.executed_layers, 0.0)
    if expect.cost_ratio is not None and entry.baseline is not None:
        name = f"training FLOPs against {expect.baseline}"
        here = _cost_ratio(entry.spec, entry.baseline)
        yield Claim(name, expect.cost_ratio, here, expect.cost_ratio_tolerance)
    if expect.max_adapter_share is not None:
        share = expect.max_adapter_share
        yield Claim("share of adapters, at most", share, costs.adapter_share, None)


SIGNATURE_WIDTHS = (10, 30)  # in the list of entries, where there is little room and where much
WIDTH_WITH_ADAPTERS = 96  # of a terminal with room for their share in the list of entries
GAP = 2  # between two columns of a table


def entries_table(entries: Iterable[tuple[ZooEntry, Figures]], width: int) -> Table:
    """A row an entry; signatures get what the ``width`` of a terminal leaves them.

    A narrow one has no column for the share of adapters, which few entries have.
    """
    heads = ("name", "signature", "params", "adapters", "ratio", "rounds", "arXiv")
    rows = [
        (
            entry.name,
            figures.signature,
            rounded_count(figures.parameters),
            share_text(figures.adapter_share) if figures.adapter_share else "-",
            f"{figures.cost_ratio:.3f}",
            rounds_text(figures.expected_rounds),
            entry.source.arxiv or "-",
        )
        for entry, figures in entries
    ]
    if width < WIDTH_WITH_ADAPTERS:
        heads, *rows = [(*row[:3], *row[4:]) for row in (heads, *rows)]  # type: ignore[assignment]
    others = [max(map(len, column)) + GAP for column in zip(heads, *rows, strict=True)]
    least, most = SIGNATURE_WIDTHS
    room = min(max(width - sum(others) + others[1] - GAP, least), most)
    return Table(
        heads,
        [(name, short_text(signature, room), *rest) for name, signature, *rest in rows],
        left=(0, 1, len(heads) - 1),
    )


def claims_table(claims: Iterable[Claim]) -> Table:
    """What an entry expects beside our figures; ``!`` marks what differs."""
    rows = [
        (
            claim.name,
            _number(claim.expected),
            f"{100 * claim.tolerance:g} %" if claim.tolerance else "",
            _number(claim.here),
            "ok" if claim.holds else "!DIFFERS",
        )
        for claim in claims
    ]
    return Table(("", "expected", "within", "here", ""), rows, left=(0, 4))


def _number(value: int | float) -> str:
    return exact(value) if isinstance(value, int) else f"{value:.4g}"
