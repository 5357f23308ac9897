"""The report of a study as one HTML file, which needs nothing else: no network, no other file.

Tables sort when you click a head, and a field filters all of them. Every picture has its numbers in
a table. What comes from a plan or a run is escaped. The same runs give the same bytes.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

from rinsc.cost import block_params
from rinsc.errors import UsageError, setting
from rinsc.graph import BlockGraph, TowersGraph, build_graph
from rinsc.graph.draw import to_svg
from rinsc.graph.towers_graph import towers_of
from rinsc.storage.files import write_atomically
from rinsc.study.folder import STATES, counted
from rinsc.study.means import mean_heads, mean_rows, run_loss
from rinsc.study.page_scaling import scaling
from rinsc.study.page_tables import SCRIPT, STYLE, code, figure, table
from rinsc.study.pictures import Line, chart, intervals
from rinsc.study.report import RATE_HEADS, RATE_WORDS, RUN_COLUMNS, StudyReport
from rinsc.study.standing import Standing

MOST_COLOURED = 6  # variants that stand out in a picture, with the baseline
RANKING_WORDS = (
    "There are two intervals for each gap. The first is what other seeds may give; those of one "
    "table hold together, by Dunnett's test. The second is what another text may give: the windows "
    "of the held-out text in pairs, with the seeds as they are. A claim needs both."
)
REGRET_WORDS = (
    "Variants that draw their rounds in training, run at one round of every repeat: as many "
    "inference FLOPs as the baseline, but for what adapters add. No regret means better than the "
    "baseline that was trained with as many FLOPs."
)


def write_report(report: StudyReport, path: str | Path) -> tuple[Path, ...]:
    """Write the report as .html with its .csv and .json beside it, or one of these two alone.

    ``rinsc fit`` reads the .csv. Returns what was written. Raises UsageError for another suffix,
    and OutputError.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    texts = {
        ".html": lambda: page(report),
        ".csv": lambda: runs_csv(report),
        ".json": lambda: json.dumps(report.facts(), indent=1),
    }
    if suffix not in texts:
        message = f"a report is written as .html, .csv or .json, not '{path.name}'"
        raise UsageError("usage", message, hint=f"write {setting('output', '-o')} report.html")
    written = [path]
    if suffix == ".html":
        written += [path.with_suffix(".csv"), path.with_suffix(".json")]
    for target in written:
        write_atomically(target, texts[target.suffix.lower()]())
    return tuple(written)


def runs_csv(report: StudyReport) -> str:
    """The runs that ended, a line each; a diverged one has the loss nan.

    Where more of the figure is better, a last column has the loss.
    """
    heads = [report.figure if head == "figure" else head for head in RUN_COLUMNS]
    loss = heads.index(report.figure)
    has_loss = report.loss_name == report.figure
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*heads, *([] if has_loss else ["loss"])])
    for state, row in zip(report.states, report.run_rows(), strict=True):
        if state.state in ("finished", "diverged"):
            writer.writerow(
                [
                    *(*row[:loss], "nan" if row[loss] is None else row[loss], *row[loss + 1 :]),
                    *([] if has_loss else [run_loss(state)]),
                ]
            )
    return text.getvalue()


def page(report: StudyReport) -> str:
    """The whole page."""
    title = escape(report.plan.title or "Study")
    sections = {
        "ranking": ("Ranking", _rankings(report)),
        "rates": ("Learning rates", _rates(report)),
        "rounds": ("Rounds", _rounds(report)),
        "scaling": (
            "Scaling",
            "" if report.laws is None else scaling(report.laws, report.loss_name),
        ),
        "size": ("Compute and size", _spent(report)),
        "curves": ("Curves", _curves(report)),
        "notes": ("Notes", _notes(report.notes)),
        "variants": ("Variants", _variants(report)),
        "runs": ("Runs", _runs(report)),
        "settings": ("Settings", _settings(report)),
    }
    there = {key: pair for key, pair in sections.items() if pair[1]}
    links = " ".join(f'<a href="#{key}">{name}</a>' for key, (name, _) in there.items())
    body = [
        f"<h1>{title}</h1>",
        _summary(report),
        f"<nav>{links}</nav>",
        '<p><label>Show rows with <input id="filter" type="search"></label></p>',
        *(
            f'<section id="{key}"><h2>{name}</h2>{content}</section>'
            for key, (name, content) in there.items()
        ),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + f"\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def _summary(report: StudyReport) -> str:
    plan, counts = report.plan, counted(list(report.states))
    states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
    return (
        f"<p>{len(report.states)} runs on {escape(plan.data)}: {states}; {report.hours:.3g} hours "
        f"of training. Baseline {code(plan.baseline)}; equal {escape(plan.match)}; plan "
        f"{plan.digest}. Of {escape(report.loss_name)}, lower is better. The runs and all "
        "figures also stand in the CSV and the JSON file of the same name.</p>"
    )


def _rankings(report: StudyReport) -> str:
    text = f"<p>{RANKING_WORDS}</p>" if report.rankings else ""
    for budget in report.budgets:
        if budget in report.rankings:
            shown = _standing(report, report.rankings[budget])
        elif budget in report.unranked:
            rows = [
                (_link(report, row[0]), *map(escape, row[1:]))
                for row in mean_rows(report.plan, report.means, budget)
            ]
            if not rows:
                continue  # a note says that nothing is finished
            shown = f"<p>No ranking: {escape(report.unranked[budget])}.</p>"
            shown += table(mean_heads(report.plan), rows)
        else:
            continue
        text += f"<h3>At {escape(budget)}</h3>{shown}"
    return text


def _standing(report: StudyReport, standing: Standing, *, regret: bool = False) -> str:
    """One ranking: what was seen, the picture and the table."""
    ranking = standing.ranking
    rows = [
        (_link(report, item.variant), *map(escape, row[1:-1]), _coloured(item.reading, row[-1]))
        for item, row in zip(ranking.ranks, report.rank_rows(standing, regret=regret), strict=True)
    ]
    windows = next((text.windows for text in standing.text.values()), 0)
    text = f" Intervals of text are over {windows:,} windows." if windows else ""
    return (
        f"<p>A run's noise is {ranking.run_sd:.4f} ({ranking.freedom} degrees of freedom). "
        f"Gaps of {ranking.least_gap:.4f} are seen four times in five.{text}</p>"
        + figure(
            intervals(ranking, "gaps to the baseline with intervals"),
            f"Gap to {escape(ranking.baseline)}, with the intervals of the seeds; left is better",
            table((*report.rank_heads[:-1], "reading"), rows, words=(7,)),
            is_open=True,
        )
    )


def _coloured(reading: str, text: str) -> str:
    return f'<span class="{reading.replace(" ", "-")}">{escape(text)}</span>'


def _link(report: StudyReport, variant: str) -> str:
    names = [item.name for item in report.plan.variants]
    return f'<a href="#variant-{names.index(variant)}">{code(variant)}</a>'


def _rates(report: StudyReport) -> str:
    """The learning rate of each variant, or that there is one for all."""
    if report.plan.tuning is None:
        return "<p>Rates were fixed: all variants have the same, which suits some better.</p>"
    rows = [(_link(report, name), *map(escape, others)) for name, *others in report.rate_rows()]
    return f"<p>Every variant has equal trials; {RATE_WORDS}.</p>" + table(
        (*RATE_HEADS[:-1], "note"), rows, words=(5,)
    )


def _rounds(report: StudyReport) -> str:
    """No-regret readings, and quality against rounds."""
    text = f"<p>{REGRET_WORDS}</p>" if report.regrets else ""
    text += "".join(
        f"<h3>One round of every repeat, at {escape(budget)}</h3>"
        + _standing(report, standing, regret=True)
        for budget, standing in report.regrets.items()
    )
    by_rounds = report.by_rounds()
    for budget in dict.fromkeys(budget for _, budget in by_rounds):
        groups = {name: rows for (name, at), rows in by_rounds.items() if at == budget}
        best = {name: min(row.loss for row in rows) for name, rows in groups.items()}
        shown = sorted(best, key=lambda name: (best[name], name))[:MOST_COLOURED]
        lines = [
            Line(
                *(name, [(float(row.rounds), row.loss) for row in rows]),
                dots=True,
                grey=name not in shown,
            )
            for name, rows in groups.items()
        ]
        ranking = report.rankings.get(budget)
        level = None
        if ranking is not None:
            items = {item.variant: item.loss for item in ranking.ranking.ranks}
            level = items.get(report.plan.baseline)
        table_rows = [
            (
                *(_link(report, name), str(row.rounds), str(row.runs), f"{row.loss:.4f}"),
                *("" if level is None else f"{row.loss - level:+.4f}", f"{row.inference_flops:,}"),
            )
            for name, rows in groups.items()
            for row in rows
        ]
        heads = (
            *("variant", "rounds", "runs", report.loss_name),
            *("gap to the baseline", "FLOPs a token"),
        )
        text += f"<h3>Quality against rounds, at {escape(budget)}</h3>" + figure(
            chart(
                *(
                    f"{report.loss_name} by rounds",
                    lines,
                    "rounds of every repeat",
                    report.loss_name,
                ),
                whole_x=True,
                level=level,
            ),
            "Means over the seeds; dashed is the baseline",
            table(heads, table_rows),
        )
    return text


def _shown(report: StudyReport, losses: Mapping[str, float]) -> list[str]:
    """The baseline and the best variants, which stand out in pictures."""
    best = sorted(losses, key=lambda name: (losses[name], name))
    names = [name for name in best if name != report.plan.baseline][:MOST_COLOURED]
    return [name for name in (report.plan.baseline, *names) if name in losses]


def _spent(report: StudyReport) -> str:
    """The figure against training FLOPs, and against parameters."""
    means = report.means
    if not means:
        return ""
    losses: dict[str, float] = {}
    for (name, _), mean in means.items():  # those of the largest budget come last
        losses[name] = mean.loss
    shown = _shown(report, losses)
    names = [*shown, *(name for name in losses if name not in shown)]
    lines = []
    for name in names:
        points = sorted(
            (mean.training_flops, mean.loss) for (other, _), mean in means.items() if other == name
        )
        lines.append(Line(name, points, joined=len(points) > 1, dots=True, grey=name not in shown))
    heads = ("variant", "budget", "runs", "parameters", "training FLOPs", report.loss_name)
    rows = [
        (
            *(_link(report, name), escape(budget), str(mean.runs)),
            f"{report.plan.variant(name).parameters:,}",
            *(f"{mean.training_flops:.4g}", f"{mean.loss:.4f}"),
        )
        for (name, budget), mean in means.items()
    ]
    last = [budget for _, budget in means][-1]
    sizes = [
        Line(
            *(name, [(float(report.plan.variant(name).parameters), means[name, last].loss)]),
            joined=False,
            grey=name not in shown,
        )
        for name in names
        if (name, last) in means
    ]
    label = f"{report.loss_name} by"
    flops = chart(f"{label} training FLOPs", lines, "training FLOPs", report.loss_name, log_x=True)
    shown_flops = figure(flops, "Means over the seeds", table(heads, rows))
    stored = {report.plan.variant(name).parameters for name in losses}
    if len(stored) == 1:
        return shown_flops + f"<p>All variants store {stored.pop():,} parameters.</p>"
    parameters = chart(f"{label} parameters", sizes, "parameters", report.loss_name)
    return (
        shown_flops
        + f"<figure>{parameters}<figcaption>Against stored parameters, at {escape(last)}; the "
        "numbers are those of the table above</figcaption></figure>"
    )


def _curves(report: StudyReport) -> str:
    """The loss of every run over its training."""
    curves, lines, rows = report.evidence.curves, [], []
    losses = {name: mean.loss for (name, _), mean in report.means.items()}
    shown = _shown(report, losses)
    for state in sorted(
        report.states,
        key=lambda item: shown.index(item.run.variant) if item.run.variant in shown else 99,
    ):
        points = curves.get(state.run.name, ())
        if not points:
            continue
        run = state.run
        lines.append(Line(run.variant, points, grey=run.variant not in shown))
        marks = [points[round(share * (len(points) - 1))][1] for share in (0.1, 0.25, 0.5, 1.0)]
        rows.append(
            (
                *(_link(report, run.variant), escape(run.budget), str(run.seed)),
                *(f"{mark:.4f}" for mark in marks),
            )
        )
    heads = ("variant", "budget", "seed", "at 10 %", "at 25 %", "at half", "at the end")
    picture = chart("training loss of each run", lines, "training FLOPs", "loss, nats", log_x=True)
    caption = "Training loss of each run, averaged over stretches of steps"
    return figure(picture, caption, table(heads, rows)) if lines else ""


def _notes(notes: Iterable[str]) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    return f"<ul>{items}</ul>" if items else ""


def _variants(report: StudyReport) -> str:
    return "".join(
        f'<details id="variant-{index}"><summary>{code(variant.name)}: {variant.parameters:,} '
        f"parameters</summary>{to_svg(graph, counts)}</details>"
        for index, variant in enumerate(report.plan.variants)
        for graph in [build_graph(variant.spec)]
        for counts in [_block_params(graph)]
    )


def _block_params(graph: BlockGraph | TowersGraph) -> dict[str, int]:
    counts = [block_params(tower) for tower in towers_of(graph).values()]
    return {name: count for one in counts for name, count in one.items()}


def _runs(report: StudyReport) -> str:
    rows = [
        (
            *(_link(report, item.run.variant), escape(item.run.budget), str(item.run.seed)),
            item.state,
            "" if item.figure is None else f"{item.figure:.4f}",
            f"{item.training_flops:.3g}" if item.training_flops else "",
            f"{item.seconds:.1f}" if item.seconds else "",
            escape(item.message),
        )
        for item in report.states
    ]
    heads = (
        *("variant", "budget", "seed", "state"),
        *(report.figure, "training FLOPs", "seconds", "what went wrong"),
    )
    return table(heads, rows, words=(3, 7))


def _settings(report: StudyReport) -> str:
    """What all runs share, and the versions that they were trained with."""
    settings = [vars(run.config) for run in report.plan.runs]
    shared = [
        (escape(name), escape(str(value)))
        for name, value in settings[0].items()
        if all(other[name] == value for other in settings)
    ]
    varied = [name for name in settings[0] if name not in dict(shared)]
    seeds = sorted({run.seed for run in report.plan.runs})
    text = (
        f"<p>Seeds {', '.join(map(str, seeds))}. Runs differ in {escape(', '.join(varied))}.</p>"
        + table(("setting", "value"), shared, words=(1,))
    )
    for versions, count in report.evidence.versions:
        named = ", ".join(f"{name} {version}" for name, version in versions.items())
        text += f"<p>{count} runs with {escape(named)}.</p>"
    return text
