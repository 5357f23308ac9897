"""The report of a study as one HTML file, which needs nothing else: no network, no other file.

Tables sort when you click a head, and a field filters all of them. Every picture has its numbers in
a table. What comes from a plan or a run is escaped. The same runs give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from rinsc.cost import block_params
from rinsc.errors import UsageError, setting
from rinsc.graph import build_graph
from rinsc.graph.draw import to_svg
from rinsc.storage.files import write_atomically
from rinsc.study.folder import STATES, counted
from rinsc.study.laws import LawReport, span
from rinsc.study.ranking import Ranking
from rinsc.study.report import RUN_COLUMNS, StudyReport

WIDTH, ROW, LEFT, RIGHT = 720, 22, 190, 30  # of a picture, in pixels
LAW_HEIGHT, LAW_POINTS = 360, 60
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7f7f7f")

STYLE = """
:root { color-scheme: light dark; --ink: #222; --soft: #667; --line: #ccd; --back: #fff; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e6e6; --soft: #9aa; --line: #445; --back: #16181d; } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--back);
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } h2 { margin-top: 2.5rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid var(--line); text-align: right; }
td { white-space: nowrap; } td.words { white-space: normal; }
th:first-child, td:first-child, .words { text-align: left; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: 0; cursor: pointer; }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
svg { max-width: 100%; height: auto; } svg text { fill: currentColor; }
details { margin: 0.5rem 0; } details svg { background: #fff; }
.soft, figcaption { color: var(--soft); } figure { margin: 1rem 0; }
.better { color: #009E73; } .worse { color: #D55E00; }
input { font: inherit; padding: 0.3rem 0.5rem; width: 100%; max-width: 24rem; }
@media print { input { display: none; } body { max-width: none; } details { display: none; } }
"""

SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  table.querySelectorAll("th button").forEach((button, column) => {
    button.addEventListener("click", () => {
      const head = button.parentElement, body = table.tBodies[0];
      const down = head.getAttribute("aria-sort") === "ascending";
      table.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].textContent;
      const order = (a, b) => {
        const [x, y] = [value(a), value(b)];
        const [m, n] = [x, y].map((each) => parseFloat(each.replaceAll(",", "")));
        return Number.isNaN(m) || Number.isNaN(n) ? x.localeCompare(y) : m - n;
      };
      const rows = [...body.rows].sort(order);
      body.append(...(down ? rows.reverse() : rows));
    });
  });
}
document.getElementById("filter").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of document.querySelectorAll("tbody tr"))
    row.hidden = !row.textContent.toLowerCase().includes(wanted);
});
"""


def write_report(report: StudyReport, path: str | Path) -> None:
    """Write the report as .html or .json, or its runs as .csv, which ``rinsc fit`` reads.

    Raises UsageError for another suffix, and OutputError.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".html":
        write_atomically(path, page(report))
    elif suffix == ".json":
        write_atomically(path, json.dumps(report.facts(), indent=1))
    elif suffix == ".csv":
        write_atomically(path, _csv(report))
    else:
        message = f"a report is written as .html, .csv or .json, not '{path.name}'"
        raise UsageError("usage", message, hint=f"write {setting('output', '-o')} report.html")


def _csv(report: StudyReport) -> str:
    """The runs that ended, a line each; a diverged one has the loss nan."""
    heads = [report.figure if head == "figure" else head for head in RUN_COLUMNS]
    loss = heads.index(report.figure)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    for state, row in zip(report.states, report.run_rows(), strict=True):
        if state.state in ("finished", "diverged"):
            writer.writerow(
                [*row[:loss], "nan" if row[loss] is None else row[loss], *row[loss + 1 :]]
            )
    return text.getvalue()


def page(report: StudyReport) -> str:
    """The whole page."""
    plan, states = report.plan, list(report.states)
    title = escape(plan.title or "Study")
    counts = ", ".join(
        f"{counted(states)[each]} {each}" for each in STATES if counted(states)[each]
    )
    parts = [
        f"<h1>{title}</h1>",
        f"<p>{len(states)} runs on {escape(plan.data)}: {counts}. Baseline "
        f"<code>{escape(plan.baseline)}</code>; equal {escape(plan.match)}; plan {plan.digest}. "
        f"Lower is better.</p>",
        '<p><label>Show rows with <input id="filter" type="search"></label></p>',
        *(_ranking(budget, ranking, report) for budget, ranking in report.rankings.items()),
        *([] if report.laws is None else [_laws(report.laws)]),
        _notes(report.notes),
        _variants(report),
        _runs(report),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _ranking(budget: str, ranking: Ranking, report: StudyReport) -> str:
    rows = [
        (
            f"<code>{escape(item.variant)}</code>",
            str(item.runs),
            f"{report.plan.variant(item.variant).parameters:,}",
            f"{item.loss:.4f}",
            f"{item.gap:+.4f}",
            f"{item.low:+.4f} to {item.high:+.4f}",
            f'<span class="{item.reading}">{_reading(ranking, item.variant, item.reading)}</span>'
            + (", may be the best" if item.ties_best else ""),
        )
        for item in ranking.ranks
    ]
    heads = ("variant", "runs", "parameters", report.figure, "gap", "95 %, all together", "reading")
    return (
        f"<h2>At {escape(budget)}</h2>"
        f"<p>A run's noise is {ranking.run_sd:.4f} ({ranking.freedom} degrees of freedom). "
        f"The study sees gaps of {ranking.least_gap:.4f} four times in five. All intervals hold "
        f"together (Dunnett's, {ranking.critical:.2f} standard errors).</p>"
        f"<figure>{_intervals(ranking)}<figcaption>Gap to {escape(ranking.baseline)}, "
        f"with intervals; left is better</figcaption></figure>" + _table(heads, rows, words=(6,))
    )


def _reading(ranking: Ranking, variant: str, reading: str) -> str:
    return "baseline" if variant == ranking.baseline else reading


def _intervals(ranking: Ranking) -> str:
    """A line for each variant from the low to the high end of its gap."""
    ends = [end for item in ranking.ranks for end in (item.low, item.high, 0.0)]
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - low) / span

    height = ROW * len(ranking.ranks) + 30
    lines = [f'<line x1="{x(0):.1f}" x2="{x(0):.1f}" y1="0" y2="{height - 26}" stroke="#999"/>']
    for index, item in enumerate(ranking.ranks):
        y = ROW * index + ROW / 2 + 2
        colour = {"better": COLOURS[2], "worse": COLOURS[1]}.get(item.reading, "#888")
        name = _short(item.variant)
        lines += [
            f'<text x="{LEFT - 10}" y="{y + 4:.1f}" text-anchor="end">{name}</text>',
            f'<line x1="{x(item.low):.1f}" x2="{x(item.high):.1f}" y1="{y:.1f}" y2="{y:.1f}" '
            f'stroke="{colour}" stroke-width="3"/>',
            f'<circle cx="{x(item.gap):.1f}" cy="{y:.1f}" r="4.5" fill="{colour}"/>',
        ]
    for value in _ticks(low, high):
        lines.append(
            f'<text x="{x(value):.1f}" y="{height - 8}" text-anchor="middle">{value:+g}</text>'
        )
    return _svg(height, f"gaps to {ranking.baseline}", lines)


def _laws(laws: LawReport) -> str:
    rows = []
    for law in laws.laws:
        fitted, gap = law.fit, law.gap
        claims = ("-", "-") if fitted.refusal else (span(fitted.exponent, 4), span(fitted.limit, 3))
        held = fitted.held_out
        rows.append(
            (
                f"<code>{escape(fitted.curve.name)}</code>",
                *claims,
                f"{law.prediction.value:.4f}",
                "" if gap is None else f"{gap.value:+.4f}",
                "" if gap is None else f"{gap.low:+.4f} to {gap.high:+.4f}",
                law.reading or "baseline",
                f"{held.measured:.4f} ({held.low:.4f} to {held.high:.4f})",
            )
        )
    heads = (
        *("variant", "exponent", "limit", f"at {laws.times:g}×", "gap"),
        *("95 %", "reading", "largest budget (as predicted from the others)"),
    )
    return (
        "<h2>Scaling</h2><p>loss = limit + scale · x<sup>-exponent</sup>, x in training FLOPs. "
        "Exponent and limit lean on each other: read them as a pair, and compare by the gap.</p>"
        f"<figure>{_curves(laws)}<figcaption>Runs and laws; dashed beyond the largest budget"
        "</figcaption></figure>" + _table(heads, rows, words=(6,))
    )


def _curves(laws: LawReport) -> str:
    fits = [law.fit for law in laws.laws]
    every = [value for fitted in fits for value in fitted.curve.x]
    left, right = math.log(min(every)), math.log(laws.target)
    losses = [y for fitted in fits for y in fitted.curve.loss] + [
        f(laws.target) for f in (each.law for each in fits)
    ]
    low, high = min(losses), max(losses)

    def point(x: float, y: float) -> str:
        across = 60 + (WIDTH - 250) * (math.log(x) - left) / ((right - left) or 1)
        down = 10 + (LAW_HEIGHT - 60) * (high - y) / ((high - low) or 1)
        return f"{across:.1f},{down:.1f}"

    lines = []
    for index, fitted in enumerate(fits):
        colour = COLOURS[index % len(COLOURS)]
        last = fitted.curve.budgets[-1]
        for begin, end, dash in ((fitted.curve.budgets[0], last, ""), (last, laws.target, "5 4")):
            ratio = end / begin
            xs = [begin * ratio ** (step / LAW_POINTS) for step in range(LAW_POINTS + 1)]
            path = " ".join(point(x, fitted.law(x)) for x in xs)
            lines.append(
                f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" '
                f'stroke-dasharray="{dash}"/>'
            )
        for x, y in zip(fitted.curve.x, fitted.curve.loss, strict=True):
            across, down = point(x, y).split(",")
            lines.append(f'<circle cx="{across}" cy="{down}" r="3.5" fill="{colour}"/>')
        y = 24 + 20 * index
        lines.append(
            f'<rect x="{WIDTH - 180}" y="{y - 10}" width="12" height="12" fill="{colour}"/>'
        )
        lines.append(f'<text x="{WIDTH - 162}" y="{y}">{_short(fitted.curve.name)}</text>')
    for value in _ticks(low, high):
        down = point(math.exp(left), value).split(",")[1]
        lines.append(f'<text x="52" y="{down}" text-anchor="end">{value:g}</text>')
    for power in range(math.ceil(left / math.log(10)), math.floor(right / math.log(10)) + 1):
        across = point(10.0**power, low).split(",")[0]
        text = f"1e{power}"
        lines.append(f'<text x="{across}" y="{LAW_HEIGHT - 24}" text-anchor="middle">{text}</text>')
    return _svg(LAW_HEIGHT, "losses over training FLOPs", lines)


def _notes(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<h2>Notes</h2><ul>{items}</ul>" if items else ""


def _variants(report: StudyReport) -> str:
    drawings = "".join(
        f"<details><summary><code>{escape(variant.name)}</code></summary>"
        f"{to_svg(graph, block_params(graph))}</details>"
        for variant in report.plan.variants
        for graph in [build_graph(variant.spec)]
    )
    return f"<h2>Variants</h2>{drawings}"


def _runs(report: StudyReport) -> str:
    rows = [
        (
            f"<code>{escape(each.run.variant)}</code>",
            escape(each.run.budget),
            str(each.run.seed),
            each.state,
            "" if each.figure is None else f"{each.figure:.4f}",
            f"{each.training_flops:.3g}" if each.training_flops else "",
            f"{each.seconds:.1f}" if each.seconds else "",
            escape(each.message),
        )
        for each in report.states
    ]
    heads = (
        *("variant", "budget", "seed", "state"),
        *(report.figure, "training FLOPs", "seconds", "what went wrong"),
    )
    return "<h2>Runs</h2>" + _table(heads, rows, words=(3, 7))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], words: Sequence[int] = ()) -> str:
    """``rows`` hold HTML; the columns ``words`` stand at the left."""

    def cell(index: int, text: str) -> str:
        return f'<td class="words">{text}</td>' if index in words else f"<td>{text}</td>"

    buttons = (f"<button>{escape(each)}</button>" for each in heads)
    head = "".join(
        f'<th class="words">{each}</th>' if index in words else f"<th>{each}</th>"
        for index, each in enumerate(buttons)
    )
    body = "".join(
        f"<tr>{''.join(cell(index, text) for index, text in enumerate(row))}</tr>" for row in rows
    )
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _svg(height: float, label: str, lines: Iterable[str]) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" role="img" '
        f'aria-label="{escape(label)}" font-size="13">{"".join(lines)}</svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """A few round numbers from low to high."""
    if high <= low:
        return [low]
    step = 10 ** math.floor(math.log10(high - low))
    while (high - low) / step < 3:
        step /= 2
    return [
        round(number * step, 10)
        for number in range(math.ceil(low / step), math.floor(high / step) + 1)
    ]


def _short(text: str, most: int = 24) -> str:
    return escape(text if len(text) <= most else f"{text[: most - 1]}…")
