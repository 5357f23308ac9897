"""What ``rinsc fit`` says of anyone's runs: their scaling laws, and the gaps between them.

The runs come from a CSV file with a line for each:

    variant,flops,loss
    AB,1e15,3.912
    AB,4e15,3.604

Their columns may have other names; see `COLUMNS`.
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rinsc.errors import DataError, Problem, UsageError, listed, plural, setting
from rinsc.scalars import Table
from rinsc.storage.files import read_regular
from rinsc.study.estimators import Estimate, estimates
from rinsc.study.forms import BrokenLaw, broken_law
from rinsc.study.planning import Design, cheapest, designs
from rinsc.study.scaling import Curve, Fit, Prediction, fit, gap

# The names that a column may have, the likeliest first; capitals count for nothing.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "x": (
        *("training_flops", "flops", "compute", "tokens", "seen examples", "samples"),
        *("parameters", "params", "x"),
    ),
    "loss": ("loss", "bits_per_byte", "bpb", "validation_loss", "val_loss", "eval_loss", "y"),
    "variant": ("variant", "signature", "model", "name"),
}
MOST_BYTES = 64 << 20
BAD_LINE = "mend the line, or take it out"
MOST_FAULTS = 10  # lines that one error lists
ALL = "all runs"  # the name of a curve in a file without variants
TIMES = 4.0  # the largest budget, where the gap is predicted


@dataclass(frozen=True)
class Points:
    """Curves of a file; ``x_name`` says what was spent, ``diverged`` counts runs without a loss."""

    curves: tuple[Curve, ...]
    x_name: str
    diverged: Mapping[str, int]


@dataclass(frozen=True)
class LawOfVariant:
    """A variant's law, the other estimates of it, and its gap to the baseline at the target."""

    fit: Fit
    checks: Mapping[str, Estimate]
    prediction: Prediction
    gap: Prediction | None
    broken: BrokenLaw | None = None

    @property
    def reading(self) -> str:
        """What the gap allows to claim."""
        if self.gap is None:
            return ""
        if self.gap.high < 0:
            return "better"
        return "worse" if self.gap.low > 0 else "not told apart"

    @property
    def cells(self) -> tuple[str, ...]:
        """Name, runs, exponent, limit, prediction and gap, as a table shows them."""
        fitted, ahead = self.fit, self.prediction
        claims = ("-", "-")
        if not fitted.refusal:
            claims = (span(fitted.exponent, 4), span(fitted.limit, 3))
        gap = "" if self.gap is None else f"{self.gap.value:+.4f} [{_ends(self.gap, '+')}]"
        runs = str(len(fitted.curve.loss))
        return fitted.curve.name, runs, *claims, f"{ahead.value:.4f} [{_ends(ahead)}]", gap


def _ends(prediction: Prediction, sign: str = "") -> str:
    return f"{prediction.low:{sign}.4f}, {prediction.high:{sign}.4f}"


def span(interval: tuple[float, float], digits: int) -> str:
    """Both ends of an interval."""
    return f"{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


@dataclass(frozen=True)
class LawReport:
    """Laws of all variants and what they predict at ``target``, ``times`` the largest budget."""

    laws: tuple[LawOfVariant, ...]
    baseline: str | None
    x_name: str
    times: float
    target: float
    diverged: Mapping[str, int]
    plans: tuple[Design, ...]
    resolved_gap: float | None

    @property
    def noise(self) -> float:
        """The relative standard deviation of a run."""
        return self.laws[0].fit.noise

    @property
    def plan(self) -> Design | None:
        """The cheapest design that resolves the gap asked for; None where none does."""
        return None if self.resolved_gap is None else cheapest(self.plans, self.resolved_gap)

    @property
    def title(self) -> str:
        """What was fitted, and the noise of a run."""
        freedom = plural(self.laws[0].fit.freedom, "degree")
        return (
            f"loss = limit + scale · {self.x_name}^-exponent; 95 % intervals; noise of a run "
            f"{100 * self.noise:.2g} %, {freedom} of freedom"
        )

    def tables(self) -> list[Table]:
        """The laws with their gaps, and what other estimators predict."""
        at = f"at {self.times:g}× ({self.target:.3g})"
        gap_head = f"gap to {self.baseline}" if self.baseline else "gap"
        laws = Table(
            ("", "runs", "exponent", "limit", at, gap_head, ""),
            [(*law.cells, law.reading or "baseline" * bool(self.baseline)) for law in self.laws],
            left=(0, 6),
        )
        checks = [
            (
                law.fit.curve.name,
                *(f"{check.predict(self.target):.4f}" for check in law.checks.values()),
                "-" if law.broken is None else f"{law.broken(self.target):.4f}",
            )
            for law in self.laws
        ]
        heads = ("predicted at the target by", *self.laws[0].checks, "broken law")
        return [laws, Table(heads, checks)]

    def plan_table(self) -> Table:
        """The designs that no cheaper one beats; costs are of two variants, in runs of the largest
        budget so far."""
        rows: list[tuple[str, ...]] = []
        least = math.inf
        for design in self.plans:
            if design.least_gap < least:
                least = design.least_gap
                rows.append(
                    (str(design.budgets), str(design.seeds), f"{design.cost:.3g}", f"{least:.4f}")
                )
        return Table(("budgets", "seeds", "cost", "least gap"), rows, left=())

    def facts(self) -> dict[str, object]:
        """The report as plain data."""
        return {
            "x": self.x_name,
            "times": self.times,
            "target": self.target,
            "baseline": self.baseline,
            "noise": self.noise,
            "freedom": self.laws[0].fit.freedom,
            "diverged": dict(self.diverged),
            "variants": {law.fit.curve.name: _facts(law, self.target) for law in self.laws},
            "plans": [vars(plan) for plan in self.plans],
            "cheapest": None if self.plan is None else vars(self.plan),
        }


def fit_laws(
    points: str | os.PathLike[str] | Sequence[Curve],
    *,
    x: str | None = None,
    loss: str | None = None,
    variant: str | None = None,
    baseline: str | None = None,
    times: float = TIMES,
    plan: bool = False,
    resolve: float | None = None,
) -> LawReport:
    """Fit scaling laws to runs, of a CSV file or given as curves: what ``rinsc fit`` does.

    ``x``, ``loss`` and ``variant`` name columns; by default those of `COLUMNS` that the file has.
    Gaps are predicted against ``baseline`` (the first variant) at ``times`` the largest budget.
    With ``plan``, designs of further studies are listed, and ``resolve`` is a gap that one should
    see. Raises RinscError.

    >>> from rinsc.study import Curve
    >>> x = [1e15 * 4**step for step in range(6)]
    >>> baseline = Curve("AB", tuple(x), tuple(2 + 3 * (flops / 1e15) ** -0.25 for flops in x))
    >>> variant = Curve("A^2B", baseline.x, tuple(loss - 0.1 for loss in baseline.loss))
    >>> round(fit_laws([baseline, variant]).laws[1].gap.value, 4)
    -0.1
    """
    points_read = (
        read_points(points, x=x, loss=loss, variant=variant)
        if isinstance(points, str | os.PathLike)
        else Points(tuple(points), "x", {})
    )
    if not (math.isfinite(times) and times >= 1):
        message = f"{setting('times', '--at')} must be at least 1, not {times}"
        raise UsageError("usage", message, hint="write how many times the largest budget, as 4")
    if resolve is not None and not (math.isfinite(resolve) and resolve > 0):
        message = f"{setting('resolve', '--gap')} must be above 0, not {resolve}"
        raise UsageError("usage", message, hint="write a difference of losses, as 0.01")
    fits = fit(points_read.curves)
    names = [fitted.curve.name for fitted in fits]
    if baseline is None:
        baseline = names[0] if len(names) > 1 else None
    elif baseline not in names:
        hint = f"the variants are {listed(names, 8)}"
        raise UsageError("no-baseline", f"no variant is called '{baseline}'", hint=hint)
    target = times * max(fitted.curve.budgets[-1] for fitted in fits)
    base = fits[names.index(baseline)] if baseline is not None else None
    laws = tuple(
        LawOfVariant(
            fitted,
            estimates(fitted.curve),
            fitted.predict(target),
            None if base is None or fitted is base else gap(fitted, base, target),
            broken_law(fitted),
        )
        for fitted in fits
    )
    plans = tuple(designs(base or fits[0], times)) if plan or resolve is not None else ()
    return LawReport(
        laws, baseline, points_read.x_name, times, target, points_read.diverged, plans, resolve
    )


def read_points(
    path: str | os.PathLike[str],
    *,
    x: str | None = None,
    loss: str | None = None,
    variant: str | None = None,
) -> Points:
    """The curves of a CSV file; raises DataError with each line that cannot be read."""
    name = os.fspath(path)
    try:
        data = read_regular(Path(path), MOST_BYTES + 1)
        text = data.decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text in UTF-8"
        message, hint = f"cannot read the points: {reason}", "name a CSV file, a line for each run"
        raise DataError("unreadable", message, place=name, hint=hint) from None
    if len(data) > MOST_BYTES:
        message = f"a file of points has at most {MOST_BYTES >> 20} MiB"
        raise DataError("too-large", message, place=name, hint="keep the last loss of each run")
    try:
        rows = csv.DictReader(
            io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text)
        )
        heads = [head or "" for head in rows.fieldnames or ()]
        columns = _columns(heads, name, x=x, loss=loss, variant=variant)
        return _points(rows, columns, name)
    except csv.Error as error:
        hint = "write a line of column names, and a line for each run"
        raise DataError("bad-csv", f"the file is no CSV: {error}", place=name, hint=hint) from None


def _delimiter(text: str) -> str:
    """What stands between the columns: a comma, or where the head has none, what spreadsheets of
    other countries write."""
    head = text.partition("\n")[0]
    return next((mark for mark in (",", ";", "\t") if mark in head), ",")


def _columns(heads: Sequence[str], name: str, **chosen: str | None) -> dict[str, str | None]:
    """The column of each role; that of variants may be absent."""
    by_lower = {head.strip().lower(): head for head in reversed(heads)}
    columns: dict[str, str | None] = {}
    problems = []
    for role, likely in COLUMNS.items():
        column = chosen[role]
        names = likely if column is None else (column.strip().lower(),)
        columns[role] = next((by_lower[head] for head in names if head in by_lower), None)
        if columns[role] is None and (column is not None or role != "variant"):
            sought = f"known as the {role}" if column is None else f"called '{column}'"
            message = f"no column is {sought}"
            have = listed(heads, 8) if heads else "none"
            hint = f"name it with {setting(role)}; the columns are {have}"
            problems.append(Problem("no-column", message, place=name, hint=hint))
    if problems:
        raise DataError.of(*problems)
    return columns


def _points(rows: csv.DictReader[str], columns: Mapping[str, str | None], name: str) -> Points:
    runs: dict[str, list[tuple[float, float]]] = {}
    diverged: dict[str, int] = {}
    problems: list[Problem] = []
    for row in rows:
        line = f"{name}: line {rows.line_num}"
        variant = ALL if columns["variant"] is None else (row[columns["variant"]] or "").strip()
        spent, loss = (_number(row[columns[role] or ""]) for role in ("x", "loss"))
        if spent is None or not (math.isfinite(spent) and spent > 0):
            message = f"'{columns['x']}' must be a number above 0"
            problems.append(Problem("bad-points", message, place=line, hint=BAD_LINE))
        elif loss is None or loss <= 0:
            message = f"'{columns['loss']}' must be a number above 0, or nan for a diverged run"
            problems.append(Problem("bad-points", message, place=line, hint=BAD_LINE))
        elif not math.isfinite(loss):
            diverged[variant] = diverged.get(variant, 0) + 1
        else:
            runs.setdefault(variant, []).append((spent, loss))
        if len(problems) >= MOST_FAULTS:
            break
    if not runs and not problems:
        hint = "each line is a run that has ended, with its loss"
        message = "the file has no finished run"
        problems.append(Problem("no-points", message, place=name, hint=hint))
    if problems:
        raise DataError.of(*problems)
    curves = [
        Curve(variant, tuple(x for x, _ in points), tuple(loss for _, loss in points))
        for variant, points in runs.items()
    ]
    return Points(tuple(curves), str(columns["x"]).strip(), diverged)


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _facts(law: LawOfVariant, target: float) -> dict[str, object]:
    fitted = law.fit
    return {
        "runs": len(fitted.curve.loss),
        "budgets": list(fitted.curve.budgets),
        "exponent": fitted.law.exponent,
        "exponent_interval": list(fitted.exponent),
        "limit": fitted.law.limit,
        "limit_interval": list(fitted.limit),
        "scale": fitted.law.scale,
        "refusal": fitted.refusal or None,
        "misfit": fitted.misfit,
        "held_out": {**vars(fitted.held_out), "inside": fitted.held_out.is_inside},
        "predicted": vars(law.prediction),
        "gap": None if law.gap is None else {**vars(law.gap), "reading": law.reading},
        "broken": None if law.broken is None else vars(law.broken),
        "checks": {
            name: {
                "exponent": check.exponent,
                "limit": check.limit,
                "predicted": check.predict(target),
            }
            for name, check in law.checks.items()
        },
    }


def in_words(report: LawReport) -> list[str]:
    """The notes below the table: what was left out, what does not hold, what to do."""
    lines = []
    for variant, count in report.diverged.items():
        lines.append(f"{variant}: {plural(count, 'run')} diverged and left out")
    for law in report.laws:
        name, fitted = law.fit.curve.name, law.fit
        if fitted.refusal:
            lines.append(f"{name}: {fitted.refusal}")
        if fitted.misfit is not None and fitted.misfit < 0.01:
            lines.append(
                f"{name}: the law does not fit, beyond the noise of its runs "
                f"(p = {fitted.misfit:.1g})"
            )
        if law.broken is not None and law.broken.is_better:
            lines.append(
                f"{name}: a law that breaks at {law.broken.at:.2g} fits far better "
                f"(p = {law.broken.doubt:.1g}): do not trust what one law predicts"
            )
        if not fitted.held_out.is_inside:
            held = fitted.held_out
            lines.append(
                f"{name}: the largest budget, held out, is {held.measured:.4f}; predicted "
                f"{held.predicted:.4f} ({held.low:.4f} to {held.high:.4f})"
            )
    if report.plan is not None:
        plan = report.plan
        lines.append(
            f"a gap of {report.resolved_gap:g} at {report.times:g} times the largest budget: "
            f"{plan.budgets} budgets, {plan.factor:.3g} times apart, "
            f"{plural(plan.seeds, 'seed')} each resolve {plan.least_gap:.4f}"
        )
    elif report.resolved_gap is not None:
        lines.append(f"no study of up to 9 budgets and 8 seeds resolves {report.resolved_gap:g}")
    return lines
