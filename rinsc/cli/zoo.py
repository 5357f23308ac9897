"""``rinsc zoo``: published architectures, every variant of short words, families of variants."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from rinsc.cli.diagnostics import note
from rinsc.cli.filters import NO_FILTERS, Filters
from rinsc.cli.model_options import NO_OPTIONS, ModelOptions
from rinsc.cli.output import print_json, print_json_list, print_result, result_stream
from rinsc.cli.tables import PIPED_WIDTH
from rinsc.cli.values import Count, option_values
from rinsc.cli.words import short_text
from rinsc.errors import RinscError
from rinsc.syntax.problems import plural

if TYPE_CHECKING:
    from rinsc.spec import ModelSpec
    from rinsc.sweep.costed import Costed
    from rinsc.sweep.families import Member
    from rinsc.sweep.zoo import ZooEntry


def list_(*, filters: Filters = NO_FILTERS, json: bool = False) -> None:
    """Print every published architecture with its figures and its source.

    The cost ratio is that of training FLOPs per token against the same blocks visited once each.

    Parameters
    ----------
    json
        Print one JSON document: a list of objects.
    """
    from rinsc.sweep.claims import figures
    from rinsc.sweep.zoo import zoo_entries

    limits = filters.limits
    rows = [(entry, figures(entry)) for entry in zoo_entries()]
    rows = [(entry, found) for entry, found in rows if limits.admit(found)]
    if json:
        print_json_list(
            {"name": entry.name, **asdict(found), "source": asdict(entry.source)}
            for entry, found in rows
        )
        return
    from rinsc.cli.zoo_tables import print_entries

    print_entries(rows)


def show(name: Annotated[str, Parameter(name="NAME")], /, *, json: bool = False) -> None:
    """Print an architecture: its source, what is expected of it beside our figures, its drawing.

    Parameters
    ----------
    json
        Print JSON.
    """
    from rinsc.sweep.claims import claims, figures
    from rinsc.sweep.zoo import zoo_entry

    with option_values():
        entry = zoo_entry(name)
    found = figures(entry)
    beside = list(claims(entry, found))
    if json:
        source, expect = asdict(entry.source), asdict(entry.expect)
        rows = [{**asdict(claim), "holds": claim.holds} for claim in beside]
        data = {"name": entry.name, **asdict(found), "source": source, "expect": expect}
        print_json({**data, "claims": rows})
        return
    from rinsc.cli.zoo_tables import print_entry

    print_entry(entry, found, beside, _drawing(entry))


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
    from rinsc.sweep.enumerate import variants

    base = options.spec("A")
    with option_values():
        found = variants(base, letters, length, degree, filters.limits, strict=options.strict)
    wanted = islice(found, None if limit is None else min(limit, sys.maxsize))
    # Twice the length holds nearly every signature: a power or a parenthesis saves visits.
    width = max(len("signature"), 2 * length)
    _print_variants(((variant.costed(), "") for variant in wanted), width, json=json)


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

    from rinsc.sweep.families import family as members_of
    from rinsc.sweep.families import layers_for_all

    with option_values():
        members = members_of(name)
    limits = filters.limits
    base, strict = options.spec("A"), options.strict
    if options.layers is None and options.preset is None:
        base = replace(base, layers=layers_for_all(members, base.layers))
    rows = [row for row in _costed(members, base, strict=strict) if limits.admit(row[0])]
    width = max(len(text) for text in ("signature", *(row.signature for row, _ in rows)))
    _print_variants(rows, width, json=json)


def _costed(
    members: Iterable[Member], base: ModelSpec, *, strict: bool
) -> Iterator[tuple[Costed, str]]:
    """Each member with its costs; those that do not fit the layers are left out, with a note.

    At few layers two of them may be the same model.
    """
    from rinsc.fingerprints import fingerprint
    from rinsc.spec import with_signature
    from rinsc.sweep.costed import costed

    known: dict[str, str] = {}
    left_out: list[str] = []
    for member in members:
        try:
            key = fingerprint(with_signature(base, member.signature, strict=strict))
        except RinscError as error:
            if error.code != "layers-do-not-split":
                raise
            left_out.append(member.signature)
            continue
        if key in known:
            same = f"{member.signature} is the same model as {known[key]}"
            note(f"at {plural(base.layers, 'layer')} {same}, and left out")
        else:
            known[key] = member.signature
            yield costed(base, member.signature, strict=strict), member.idea
    if left_out:
        why = "do not divide evenly over the blocks of" if strict else "are too few for"
        note(f"{plural(base.layers, 'layer')} {why} {', '.join(left_out)}, left out")


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
        from rinsc.cli.zoo_tables import variant_heads, variant_row

        print_result(variant_heads(width))
    uneven = 0
    for row, idea in rows:
        uneven += row.layers_if_even is not None
        line = short_text(variant_row(row, idea, width), columns) if is_table else row.signature
        print_result(line)
    if uneven:
        words = "variant splits" if uneven == 1 else "variants split"
        note(f"{uneven} {words} the layers unevenly; --strict leaves them out, --json marks them")


def _drawing(entry: ZooEntry) -> Iterator[str]:
    """What ``rinsc show`` prints of the model."""
    from rinsc.cost import block_params
    from rinsc.graph import build_graph
    from rinsc.graph.draw import schedule_lines, tree_lines

    graph = build_graph(entry.spec)
    width = shutil.get_terminal_size().columns if result_stream().isatty() else PIPED_WIDTH
    yield from tree_lines(graph, block_params(graph))
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
