"""``rinsc fit``: the scaling law of anyone's runs, and what it predicts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from rinsc.cli.output import print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from rinsc.study.laws import LawReport
    from rinsc.study.planning import Design


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
    output: Annotated[Path | None, Parameter(name=("--output", "-o"))] = None,
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
    report = fit_laws(
        points,
        x=x,
        loss=loss,
        variant=variant,
        baseline=baseline,
        times=at,
        plan=plan,
        resolve=gap,
    )
    if output is not None:
        draw_laws([law.fit for law in report.laws], report.x_name, report.target, output)
    if json:
        print_json(report.facts())
        return
    _print(report, plan=plan)
    for line in in_words(report):
        print_line(line)
    if output is not None:
        print_note(f"wrote {output}")


def _print(report: LawReport, *, plan: bool) -> None:
    from rinsc.errors import plural

    first = report.laws[0].fit
    print_line(
        f"loss = limit + scale · {report.x_name}^-exponent; 95 % intervals; noise of a run "
        f"{100 * report.noise:.2g} %, {plural(first.freedom, 'degree')} of freedom"
    )
    print_line()
    gaps = f"gap to {report.baseline}"
    print_table(
        ("", "runs", "exponent", "limit", f"at {report.times:g}× ({report.target:.3g})", gaps, ""),
        [
            (
                law.fit.curve.name,
                str(len(law.fit.curve.loss)),
                *_law_cells(law.fit.refusal, law.fit.exponent, law.fit.limit),
                f"{law.prediction.value:.4f} {_interval(law.prediction.low, law.prediction.high)}",
                ""
                if law.gap is None
                else f"{law.gap.value:+.4f} {_interval(law.gap.low, law.gap.high, '+')}",
                law.reading or "baseline" * (report.baseline is not None),
            )
            for law in report.laws
        ],
        left=(0, 6),
    )
    print_line()
    print_table(
        ("predicted at the target by", *report.laws[0].checks),
        [
            (
                law.fit.curve.name,
                *(f"{check.predict(report.target):.4f}" for check in law.checks.values()),
            )
            for law in report.laws
        ],
    )
    if plan:
        print_line()
        print_table(
            ("budgets", "seeds", "cost", "least gap"),
            [
                (str(each.budgets), str(each.seeds), f"{each.cost:.3g}", f"{each.least_gap:.4f}")
                for each in _worthwhile(report)
            ],
            left=(),
        )
        print_line("cost: of two variants, in runs of the largest budget so far")
    print_line()


def _law_cells(
    refusal: str, exponent: tuple[float, float], limit: tuple[float, float]
) -> tuple[str, str]:
    if refusal:
        return "-", "-"
    return f"{exponent[0]:.4f} to {exponent[1]:.4f}", f"{limit[0]:.3f} to {limit[1]:.3f}"


def _interval(low: float, high: float, sign: str = "") -> str:
    return f"[{low:{sign}.4f}, {high:{sign}.4f}]"


def _worthwhile(report: LawReport) -> list[Design]:
    """The designs that no cheaper one beats."""
    kept: list[Design] = []
    for plan in report.plans:
        if not kept or plan.least_gap < kept[-1].least_gap:
            kept.append(plan)
    return kept
