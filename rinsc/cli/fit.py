"""``rinsc fit``: the scaling law of anyone's runs, and what it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from rinsc.cli.output import print_json, print_line, print_note, print_result_table
from rinsc.cli.values import Output


def fit_(
    points: Annotated[Path, Parameter(name="POINTS", help="A CSV file with a line for each run.")],
    /,
    *,
    x: str | None = None,
    loss: str | None = None,
    variant: str | None = None,
    baseline: str | None = None,
    at: float = 4.0,
    plan: bool = False,
    gap: float | None = None,
    output: Output = None,
    json: bool = False,
) -> None:
    """Fit loss = limit + scale · x^-exponent to runs at five budgets or more.

    A row for each variant: its law with 95 % intervals, what it predicts beyond the runs, and the
    gap to the baseline there. The largest budget is also predicted from the others. Lower is
    better.

    Parameters
    ----------
    x
        The column of what a run spent; training_flops, flops, compute or tokens if not given.
    loss
        The column of the loss; loss or bits_per_byte if not given. nan is a diverged run.
    variant
        The column that names the variant; variant, signature, model or name if not given.
    baseline
        The variant that gaps are taken from; the first if not given.
    at
        Predict at so many times the largest budget.
    plan
        List studies from cheap to dear, with the smallest gap that each resolves.
    gap
        Say which is the cheapest study that resolves a gap of this size, as 0.01.
    output
        Draw runs and laws: a file with the suffix .png or .svg.
    json
        Print JSON.
    """
    from rinsc import fit_laws
    from rinsc.study.laws import in_words

    if output is not None:
        from rinsc.plots import draw_laws, require_picture

        require_picture(output, "laws.svg")
    columns = {"x": x, "loss": loss, "variant": variant}
    report = fit_laws(points, **columns, baseline=baseline, times=at, plan=plan, resolve=gap)
    if output is not None:
        draw_laws([law.fit for law in report.laws], report.x_name, report.target, output)
    if json:
        print_json(report.facts())
        return
    print_line(f"{report.title}\n")
    for table in [*report.tables(), *([report.plan_table()] if plan else [])]:
        print_result_table(table)
        print_line()
    if plan:
        print_line("cost: of two variants, in runs of the largest budget so far")
    for line in in_words(report):
        print_line(line)
    if output is not None:
        print_note(f"wrote {output}")
