"""``rinsc zoo``: published architectures, every variant of short words, families of variants."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from textwrap import fill
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Group, Parameter

from rinsc.cli.model_options import NO_OPTIONS, ModelOptions
from rinsc.cli.output import (
    PIPED_WIDTH,
    console,
    note,
    print_json,
    print_json_list,
    print_line,
    print_result,
    print_result_table,
    result_stream,
)
from rinsc.cli.values import Count, option_values
from rinsc.scalars import short_text
from rinsc.variants.costed import Costed, variant_heads, variant_row
from rinsc.variants.zoo import Claim, Figures, ZooEntry, claims_table, entries_table

if TYPE_CHECKING:
    from rinsc.variants.costed import Limits


@Parameter(name="*", group=Group("Filters"))
@dataclass(frozen=True)
class Filters:
    """Bounds, each of them included."""

    min_parameters: Count = 0
    """Leave out what has fewer parameters."""

    max_parameters: Count | None = None
    """Leave out what has more parameters."""

    min_cost_ratio: float = 0.0
    """Leave out what costs less, against the same blocks visited once each."""

    max_cost_ratio: float = math.inf
    """Leave out what costs more."""

    min_layers_executed: Count = 0
    """Leave out what runs fewer layers."""

    max_layers_executed: Count | None = None
    """Leave out what runs more layers."""

    @property
    def limits(self) -> Limits:
        """The bounds, checked; raises `UsageError` where nothing can lie between them."""
        from rinsc.variants.costed import Limits

        most, layers = self.max_parameters, self.max_layers_executed
        with option_values():
            return Limits(
                min_parameters=self.min_parameters,
                max_parameters=math.inf if most is None else most,
                min_layers_executed=self.min_layers_executed,
                max_layers_executed=math.inf if layers is None else layers,
                min_cost_ratio=self.min_cost_ratio,
                max_cost_ratio=self.max_cost_ratio,
            )


NO_FILTERS = Filters()


def list_(*, filters: Filters = NO_FILTERS, json: bool = False) -> None:
    """Print every published architecture with its figures and its source.

    The cost ratio is that of training FLOPs per token against the same blocks visited once each.

    Parameters
    ----------
    json
        Print one JSON document: a list of objects.
    """
    from rinsc.variants.zoo import figures, zoo_entries

    limits = filters.limits
    rows = [(entry, figures(entry)) for entry in zoo_entries()]
    rows = [(entry, costs) for entry, costs in rows if limits.admit(costs)]
    if json:
        print_json_list(
            {"name": entry.name, **asdict(costs), "source": asdict(entry.source)}
            for entry, costs in rows
        )
        return

    print_entries(rows)


def show(name: Annotated[str, Parameter(name="NAME")], /, *, json: bool = False) -> None:
    """Print an architecture: its source, what is expected of it beside our figures, its drawing.

    Parameters
    ----------
    json
        Print JSON.
    """
    from rinsc.variants.zoo import claims, figures, zoo_entry

    with option_values():
        entry = zoo_entry(name)
    costs = figures(entry)
    beside = list(claims(entry, costs))
    if json:
        source, expect = asdict(entry.source), asdict(entry.expect)
        rows = [{**asdict(claim), "holds": claim.holds} for claim in beside]
        data = {"name": entry.name, **asdict(costs), "source": source, "expect": expect}
        print_json({**data, "claims": rows})
        return

    print_entry(entry, costs, beside, _drawing(entry))


def enumerate_(
    *,
    letters: Count,
    length: Count,
    degree: Count = 1,
    limit: Count | None = None,
    filters: Filters = NO_FILTERS,
    options: ModelOptions = NO_OPTIONS,
    json: bool = False,
) -> None:
    """Print every distinct model of short words: a signature a line, at a terminal with its costs.

    No two of them are the same model. The cost ratio is that of training FLOPs per token against
    the same blocks visited once each. --strict leaves out words over whose blocks the layers do not
    divide evenly.

    Parameters
    ----------
    letters
        At most so many blocks.
    length
        At most so many visits, before the degree is applied.
    degree
        Every degree up to this one.
    limit
        Stop after so many.
    json
        Print one JSON document: a list of objects, each as soon as it is made.
    """
    from rinsc.variants.enumerate import variants

    base = options.spec("A")
    with option_values():
        every = variants(base, letters, length, degree, filters.limits, strict=options.strict)
    chosen = islice(every, None if limit is None else min(limit, sys.maxsize))
    # Twice the length holds nearly every signature: a power or a parenthesis saves visits.
    width = max(len("signature"), 2 * length)
    _print_variants(((variant.costed(), "") for variant in chosen), width, json=json)


def family(
    name: Annotated[str, Parameter(name="NAME")],
    /,
    *,
    filters: Filters = NO_FILTERS,
    options: ModelOptions = NO_OPTIONS,
    json: bool = False,
) -> None:
    """Print a family of variants: a signature a line, at a terminal with its costs.

    ``rins`` holds the forms of recursion round RINS: early, in the middle, late and total. Without
    --layers and --preset the layers divide evenly over the blocks of all members. Elsewhere uneven
    members are marked, and --strict leaves them out.

    Parameters
    ----------
    json
        Print one JSON document: a list of objects, each as soon as it is made.
    """
    from dataclasses import replace

    from rinsc.variants.enumerate import costed_members, layers_for_all
    from rinsc.variants.enumerate import family as members_of

    with option_values():
        members = members_of(name)
    limits = filters.limits
    base, strict = options.spec("A"), options.strict
    if options.layers is None and options.preset is None:
        base = replace(base, layers=layers_for_all(members, base.layers))
    rows = [
        row for row in costed_members(members, base, note, strict=strict) if limits.admit(row[0])
    ]
    width = max(len(text) for text in ("signature", *(row.signature for row, _ in rows)))
    _print_variants(rows, width, json=json)


def _print_variants(rows: Iterable[tuple[Costed, str]], width: int, *, json: bool) -> None:
    """Each row at once, so that what takes long can be read while it is made.

    ``width`` is that of the column of signatures.
    """
    if json:
        print_json_list({**asdict(row), **({"idea": idea} if idea else {})} for row, idea in rows)
        return
    is_table = result_stream().isatty()
    columns = shutil.get_terminal_size().columns
    if is_table:
        print_result(variant_heads(width))
    uneven = 0
    for row, idea in rows:
        uneven += row.layers_if_even is not None
        line = short_text(variant_row(row, idea, width), columns) if is_table else row.signature
        print_result(line)
    if uneven:
        noun = "variant splits" if uneven == 1 else "variants split"
        note(f"{uneven} {noun} the layers unevenly; --strict leaves them out, --json marks them")


def _drawing(entry: ZooEntry) -> Iterator[str]:
    """What ``rinsc show`` prints of the model."""
    from rinsc.cost import block_params
    from rinsc.graph import build_graph
    from rinsc.graph.draw import schedule_lines, tree_lines
    from rinsc.graph.towers_graph import towers_of

    graph = build_graph(entry.spec)
    width = shutil.get_terminal_size().columns if result_stream().isatty() else PIPED_WIDTH
    towers = towers_of(graph).values()
    counts = {name: count for tower in towers for name, count in block_params(tower).items()}
    yield from tree_lines(graph, counts)
    yield ""
    yield from schedule_lines(graph, width)


zoo = App(name="zoo", help="Published architectures, and variants by the thousand.")
for name, command in (
    ("list", list_),
    ("show", show),
    ("enumerate", enumerate_),
    ("family", family),
):
    zoo.command(command, name=name)


def print_entries(entries: Sequence[tuple[ZooEntry, Figures]]) -> None:
    """A row an entry; signatures get what the terminal's width leaves them."""
    print_result_table(entries_table(entries, console().width))


def print_entry(
    entry: ZooEntry, figures: Figures, claims: Sequence[Claim], drawing: Iterable[str]
) -> None:
    """What the entry is and where it is from, its claims beside our figures, its drawing."""
    width = console().width
    source = entry.source
    print_line(entry.name, style="bold")
    print_line(figures.signature)
    published = f"{source.title} ({source.reference}, {source.year})"
    print_line(fill(published, width, break_long_words=False, break_on_hyphens=False))
    if source.note is not None:
        print_line(fill(f"note: {source.note}", width), style="dim")
    print_line()
    print_result_table(claims_table(claims))
    print_line()
    for line in (*figures.lines(), "", *drawing):
        print_line(line)
