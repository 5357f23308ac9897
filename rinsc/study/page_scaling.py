"""The scaling laws on a report's page: joint regions, profiles, residuals, checks."""

from __future__ import annotations

from html import escape

import numpy as np

from rinsc.study.forms import residuals
from rinsc.study.laws import LawOfVariant, LawReport, span
from rinsc.study.page_tables import code, figure, table
from rinsc.study.pictures import Line, Point, chart
from rinsc.study.scaling import Fit

LAW_POINTS = 40
REGION_GRID, REGION_STRIDE = 180, 4  # of which every fourth exponent is drawn


def scaling(laws: LawReport, loss_name: str) -> str:
    """Everything about the laws of what ``loss_name`` says."""
    return (
        "<p>loss = limit + scale · x<sup>-exponent</sup>, x in training FLOPs. Exponent and limit "
        "lean on each other: read them as a pair, and compare by the gap that the laws predict at "
        f"{laws.times:g} times the largest budget. A run's noise is {100 * laws.noise:.2g} %, by "
        f"{laws.laws[0].fit.freedom} degrees of freedom.</p>"
        + figure(
            chart(
                *("losses and laws by training FLOPs", _lines(laws), "training FLOPs", loss_name),
                log_x=True,
            ),
            "Runs and laws; dashed beyond the largest budget",
            _law_table(laws),
            is_open=True,
        )
        + _regions(laws)
        + _profiles(laws)
        + _residuals(laws)
        + _checks(laws)
    )


def _lines(laws: LawReport) -> list[Line]:
    lines = []
    for law in laws.laws:
        fitted, name = law.fit, law.fit.curve.name
        first, last = fitted.curve.budgets[0], fitted.curve.budgets[-1]
        runs = list(zip(fitted.curve.x, fitted.curve.loss, strict=True))
        lines.append(Line(name, runs, joined=False))
        for begin, end in ((first, last), (last, laws.target)):
            x = np.geomspace(begin, end, LAW_POINTS)
            points = [(float(value), fitted.law(float(value))) for value in x]
            lines.append(Line(name, points, dashed=end == laws.target))
    return lines


def _law_table(laws: LawReport) -> str:
    heads = (
        *("variant", "exponent", "limit", f"at {laws.times:g}×", "gap", "95 %"),
        *("reading", "largest budget", "as the others predict it"),
    )
    return table(heads, [_law_row(law) for law in laws.laws], words=(6,))


def _law_row(law: LawOfVariant) -> tuple[str, ...]:
    fitted, gap, held = law.fit, law.gap, law.fit.held_out
    claims = ("–", "–")
    if not fitted.refusal:
        claims = (span(fitted.exponent, 4), span(fitted.limit, 3))
    ends = "" if gap is None else f"{gap.low:+.4f} to {gap.high:+.4f}"
    reading = law.reading.replace(" ", "-")
    return (
        *(code(fitted.curve.name), *claims, f"{law.prediction.value:.4f}"),
        *("" if gap is None else f"{gap.value:+.4f}", ends),
        f'<span class="{reading}">{escape(law.reading or "baseline")}</span>',
        f"{held.measured:.4f}",
        f"{held.predicted:.4f} ({held.low:.4f} to {held.high:.4f})"
        + ("" if held.is_inside else ", missed"),
    )


def _regions(laws: LawReport) -> str:
    """The pairs of exponent and limit that the runs of each variant allow."""
    lines, rows = [], []
    for law in laws.laws:
        fitted, name = law.fit, law.fit.curve.name
        if fitted.refusal:
            continue
        around = joint_region(fitted)
        lines.append(Line(name, around, joined=False, closed=True))
        lines.append(Line(name, [(fitted.law.exponent, fitted.law.limit)], joined=False))
        half = around[: len(around) // 2]
        for index in range(0, len(half), max(1, len(half) // 4)):
            x, low = half[index]
            high = around[len(around) - 1 - index][1]
            rows.append((code(name), f"{x:.4f}", f"{low:.4f} to {high:.4f}"))
    if not lines:
        return "<p>No exponent and no limit are claimed: see the notes.</p>"
    return "<h3>Exponent and limit together</h3>" + figure(
        chart("joint regions of exponent and limit", lines, "exponent", "limit"),
        "Each region holds the pairs that the runs allow, with 95 % confidence",
        table(("variant", "exponent", "limits"), rows),
    )


def joint_region(fitted: Fit) -> list[Point]:
    """The outline of the joint region: lowest limits by exponent, and back by the highest."""
    exponents, limits, inside = fitted.exponents_and_limits(REGION_GRID)
    low, high = [], []
    within = np.flatnonzero(inside.any(axis=1))
    for index in sorted({*within[::REGION_STRIDE], *within[-1:]}):
        exponent, (allowed,) = exponents[index], np.nonzero(inside[index])
        if len(allowed):
            low.append((float(exponent), float(limits[allowed[0]])))
            high.append((float(exponent), float(limits[allowed[-1]])))
    return [*low, *reversed(high)] or [(fitted.law.exponent, fitted.law.limit)]


def _profiles(laws: LawReport) -> str:
    """How much worse a law fits with another exponent."""
    lines, rows = [], []
    for law in laws.laws:
        name = law.fit.curve.name
        points = law.fit.exponent_profile(LAW_POINTS)
        lines.append(Line(name, points))
        rows += [(code(name), f"{x:.4f}", f"{y:.2f}") for x, y in points[:: LAW_POINTS // 6]]
    level = laws.laws[0].fit.allowed_by_noise
    return "<h3>Profile over the exponent</h3>" + figure(
        chart(
            *("profiles over the exponent", lines, "exponent", "worse fit, in noise²"),
            level=level,
        ),
        f"How much worse the best law with this exponent fits; below the dashed line ({level:.2f}) "
        "noise allows it. A flat profile means that the runs tell no exponent",
        table(("variant", "exponent", "worse by"), rows),
    )


def _residuals(laws: LawReport) -> str:
    lines, rows = [], []
    for law in laws.laws:
        name = law.fit.curve.name
        points = residuals(law.fit)
        lines.append(Line(name, points, joined=False))
        rows += [(code(name), f"{x:.4g}", f"{y:+.3f}") for x, y in points]
    return "<h3>Residuals</h3>" + figure(
        chart(
            *("residuals by training FLOPs", lines, "training FLOPs", "off the law, %"),
            log_x=True,
            level=0.0,
        ),
        "How far each run is off its law. A bend that all runs follow means another form",
        table(("variant", "training FLOPs", "off, %"), rows),
    )


def _checks(laws: LawReport) -> str:
    """What other estimators and another form predict."""
    _, other = laws.tables()
    rows = []
    for law, row in zip(laws.laws, other.rows, strict=True):
        doubt = "–" if law.broken is None else f"{law.broken.doubt:.2g}"
        misfit = "–" if law.fit.misfit is None else f"{law.fit.misfit:.2g}"
        rows.append((code(row[0]), *map(escape, row[1:]), doubt, misfit))
    heads = ("variant", *other.heads[1:], "p against a break", "p of the fit")
    return (
        f"<h3>Other estimators and another form, at {laws.target:.3g}</h3><p>Where they differ "
        "much, trust none of them. The broken law may change its exponent once. A small p means "
        "that one law does not hold.</p>" + table(heads, rows)
    )
