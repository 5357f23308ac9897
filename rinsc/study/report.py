"""What a study shows: rankings at each budget, scaling laws over budgets, and what went wrong.

Everything is read from the run folders, so that the same runs give the same report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rinsc.errors import RinscError
from rinsc.objectives import OBJECTIVES
from rinsc.study.folder import RunState, StudyFolder, counted, read_plan
from rinsc.study.laws import LawReport, fit_laws, in_words
from rinsc.study.plan import Plan
from rinsc.study.ranking import Ranking, rank
from rinsc.study.scaling import LEAST_BUDGETS, Curve
from rinsc.study.tuning import study_states

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]  # title, heads, rows


@dataclass(frozen=True)
class StudyReport:
    """The runs of a study, a ranking for each budget that has one, and laws where there are budgets
    enough. ``notes`` say what could not be done, and why."""

    plan: Plan
    states: tuple[RunState, ...]
    rankings: Mapping[str, Ranking]
    laws: LawReport | None
    notes: tuple[str, ...]

    @property
    def figure(self) -> str:
        """The name of the main figure, as the metrics of a run have it."""
        return OBJECTIVES[self.plan.runs[0].config.objective].figure

    def facts(self) -> dict[str, object]:
        """The report as plain data."""
        return {
            "title": self.plan.title,
            "plan": self.plan.digest,
            "baseline": self.plan.baseline,
            "figure": self.figure,
            "states": counted(list(self.states)),
            "rankings": {budget: _ranking(ranking) for budget, ranking in self.rankings.items()},
            "laws": None if self.laws is None else self.laws.facts(),
            "notes": list(self.notes),
            "runs": [dict(zip(RUN_COLUMNS, row, strict=True)) for row in self.run_rows()],
        }

    def tables(self) -> list[Table]:
        """The rankings, as a person reads them."""
        heads = ("variant", "runs", "parameters", self.figure, "gap", "95 %, all together", "")
        return [
            (
                f"At {budget}, baseline {ranking.baseline}: a run's noise is {ranking.run_sd:.4f}, "
                f"gaps of {ranking.least_gap:.4f} are seen",
                heads,
                [
                    (
                        item.variant,
                        str(item.runs),
                        f"{self.plan.variant(item.variant).parameters:,}",
                        f"{item.loss:.4f}",
                        f"{item.gap:+.4f}",
                        f"{item.low:+.4f} to {item.high:+.4f}",
                        _words(item.variant == ranking.baseline, item.reading, item.ties_best),
                    )
                    for item in ranking.ranks
                ],
            )
            for budget, ranking in self.rankings.items()
        ]

    def run_rows(self) -> list[tuple[object, ...]]:
        """A row for each run, under `RUN_COLUMNS`."""
        return [
            (
                *(each.run.name, each.run.variant, each.run.budget, each.run.seed, each.state),
                self.plan.variant(each.run.variant).parameters,
                *(each.training_flops or None, each.run.config.tokens),
                *(each.figure, each.message or None),
            )
            for each in self.states
        ]


RUN_COLUMNS = (
    *("run", "variant", "budget", "seed", "state", "parameters"),
    *("training_flops", "tokens", "figure", "message"),
)


def study_report(folder: str | Path) -> StudyReport:
    """The report of a study's folder, of the runs that are finished. Raises SpecError."""
    plan = read_plan(folder)
    states = tuple(study_states(StudyFolder(Path(folder)), plan))
    notes: list[str] = list(plan.notes)
    over = sum(each.is_over for each in states)
    if over < len(states):
        notes.append(f"{len(states) - over} of {len(states)} runs are not finished")
    rankings = {}
    for budget in dict.fromkeys(run.budget for run in plan.runs):
        try:
            rankings[budget] = rank(_losses(states, budget), plan.baseline)
        except RinscError as error:
            notes.append(f"no ranking at {budget}: {error.message}")
    laws = None
    curves = _curves(plan, states)
    if len({run.budget for run in plan.runs}) >= LEAST_BUDGETS and curves:
        try:
            laws = fit_laws(curves, baseline=plan.baseline)
            notes += in_words(laws)
        except RinscError as error:
            notes.append(f"no scaling laws: {error.message}")
    notes += [each.words for each in states if each.state in ("failed", "diverged")]
    return StudyReport(plan, states, rankings, laws, tuple(notes))


def _losses(states: Sequence[RunState], budget: str) -> dict[str, dict[str, float]]:
    """By variant and seed, lower is better; a diverged run is nan."""
    losses: dict[str, dict[str, float]] = {}
    for each in states:
        if each.run.budget == budget and each.state in ("finished", "diverged"):
            losses.setdefault(each.run.variant, {})[str(each.run.seed)] = _loss(each)
    return losses


def _loss(state: RunState) -> float:
    """The figure, or for one of which more is better what is missing from 1."""
    if state.figure is None:
        return float("nan")
    figure = OBJECTIVES[state.run.config.objective].figures[0]
    return state.figure if figure.less_is_better else 1 - state.figure


def _curves(plan: Plan, states: Sequence[RunState]) -> list[Curve]:
    curves = []
    for variant in plan.variants:
        runs = [
            each for each in states if each.run.variant == variant.name and each.state == "finished"
        ]
        if runs:
            x = tuple(float(each.training_flops) for each in runs)
            curves.append(Curve(variant.name, x, tuple(map(_loss, runs))))
    return curves


def _ranking(ranking: Ranking) -> dict[str, object]:
    return {
        "run_sd": ranking.run_sd,
        "freedom": ranking.freedom,
        "critical": ranking.critical,
        "least_gap": ranking.least_gap,
        "best": list(ranking.best),
        "diverged": [list(each) for each in ranking.diverged],
        "ranks": [{**vars(item), "reading": item.reading} for item in ranking.ranks],
    }


def _words(is_baseline: bool, reading: str, ties_best: bool) -> str:
    words = "baseline" if is_baseline else reading
    return f"{words}, may be the best" if ties_best else words
