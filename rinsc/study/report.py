"""What a study shows: rankings at each budget, scaling laws over budgets, and what went wrong.

Everything is read from the run folders, so that the same runs give the same report.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path

from rinsc.errors import RinscError, listed, setting
from rinsc.objectives import Pieces
from rinsc.study.evidence import Evidence, read_evidence
from rinsc.study.folder import RunState, StudyFolder, counted, read_plan
from rinsc.study.laws import LawReport, fit_laws, in_words
from rinsc.study.means import (
    Means,
    figure_of,
    mean_facts,
    mean_heads,
    mean_rows,
    means_of,
    run_loss,
)
from rinsc.study.plan import Plan
from rinsc.study.ranking import rank
from rinsc.study.rounds import (
    AtRounds,
    inference_flops,
    is_stochastic,
    loss_of,
    measured_rounds,
    own_sample,
)
from rinsc.study.scaling import LEAST_BUDGETS, Curve
from rinsc.study.standing import (
    Standing,
    TextInterval,
    noise_in_words,
    reading_in_words,
    regret_in_words,
    text_interval,
)
from rinsc.study.tuning import TunedRate, study_states, tuned_rates
from rinsc.training.run_folder import read_pieces

Table = tuple[str, tuple[str, ...], list[tuple[str, ...]]]  # title, heads, rows
NO_EVIDENCE = Evidence({}, (), frozenset(), ())


@dataclass(frozen=True)
class StudyReport:
    """The runs of a study, a ranking for each budget that has one, and laws where there are budgets
    enough. ``notes`` say what could not be done, and why.

    ``rounds`` has runs at other rounds than their own. ``regrets`` rank the variants that draw
    their rounds, each at one round of every repeat, beside the baseline.
    """

    plan: Plan
    states: tuple[RunState, ...]
    rankings: Mapping[str, Standing]
    laws: LawReport | None
    notes: tuple[str, ...]
    rounds: tuple[AtRounds, ...] = ()
    regrets: Mapping[str, Standing] = field(default_factory=dict)
    evidence: Evidence = NO_EVIDENCE
    rates: tuple[TunedRate, ...] = ()
    unranked: Mapping[str, str] = field(default_factory=dict)  # why, by budget

    @property
    def budgets(self) -> tuple[str, ...]:
        """Of the plan, smallest first."""
        return tuple(dict.fromkeys(run.budget for run in self.plan.runs))

    @cached_property
    def means(self) -> Means:
        """Of the finished runs, by variant and budget."""
        return means_of(self.states, self.evidence.foreign)

    @property
    def figure(self) -> str:
        """The name of the main figure, as the metrics of a run have it."""
        return figure_of(self.plan).name

    @property
    def loss_name(self) -> str:
        """The name of what is compared, of which less is better."""
        return figure_of(self.plan).loss_name

    @property
    def hours(self) -> float:
        """Of training, in all runs."""
        return sum(state.seconds for state in self.states) / 3600

    def facts(self) -> dict[str, object]:
        """The report as plain data."""
        return {
            "title": self.plan.title,
            "plan": self.plan.digest,
            "baseline": self.plan.baseline,
            "figure": self.figure,
            "states": counted(list(self.states)),
            "hours": self.hours,
            "versions": [{**versions, "runs": count} for versions, count in self.evidence.versions],
            "rankings": {budget: standing.facts() for budget, standing in self.rankings.items()},
            "unranked": {
                budget: {"reason": reason, "means": mean_facts(self.means, budget)}
                for budget, reason in self.unranked.items()
            },
            "at_one_round": {budget: standing.facts() for budget, standing in self.regrets.items()},
            "rounds": [
                {"variant": variant, "budget": budget, **vars(row)}
                for (variant, budget), rows in self.by_rounds().items()
                for row in rows
            ],
            "rates": None if self.plan.tuning is None else list(map(asdict, self.rates)),
            "laws": None if self.laws is None else self.laws.facts(),
            "notes": list(self.notes),
            "runs": [dict(zip(RUN_COLUMNS, row, strict=True)) for row in self.run_rows()],
        }

    def tables(self) -> list[Table]:
        """Rates, and rankings at the rounds of training and at one, as a person reads them."""
        rates: list[Table] = []
        if self.rates:
            rates = [(f"Learning rates: {RATE_WORDS}", RATE_HEADS, self.rate_rows())]
        return [
            *rates,
            *(
                (
                    f"At {budget}, baseline {standing.ranking.baseline}: "
                    f"{noise_in_words(standing)}",
                    self.rank_heads,
                    self.rank_rows(standing),
                )
                for budget, standing in self.rankings.items()
            ),
            *(
                (f"At {budget}, without a ranking: {reason}", mean_heads(self.plan), rows)
                for budget, reason in self.unranked.items()
                for rows in [mean_rows(self.plan, self.means, budget)]
                if rows
            ),
            *(
                (
                    f"One round of every repeat, at {budget}: {noise_in_words(standing)}",
                    self.rank_heads,
                    self.rank_rows(standing, regret=True),
                )
                for budget, standing in self.regrets.items()
            ),
        ]

    def rate_rows(self) -> list[tuple[str, ...]]:
        """A row for each variant and budget of the trials, under `RATE_HEADS`."""
        return [
            (
                *(tuned.variant, tuned.budget),
                *("–" if tuned.rate is None else f"{tuned.rate:.3g}", str(len(tuned.trials))),
                "–" if tuned.penalty is None else f"{tuned.penalty:.4f}",
                tuned.message or ("at the edge of the trials" if tuned.at_edge else ""),
            )
            for tuned in self.rates
        ]

    @property
    def rank_heads(self) -> tuple[str, ...]:
        """Of the columns of `rank_rows`."""
        return (
            *("variant", "runs", "parameters", self.loss_name, "gap"),
            *("95 %, together", "95 %, of text", ""),
        )

    def rank_rows(self, standing: Standing, *, regret: bool = False) -> list[tuple[str, ...]]:
        """A row for each variant of a ranking, best first."""
        baseline = standing.ranking.baseline
        rows: list[tuple[str, ...]] = []
        for item in standing.ranking.ranks:
            text = standing.text.get(item.variant)
            is_baseline = item.variant == baseline
            ends = "" if is_baseline else f"{item.low:+.4f} to {item.high:+.4f}"
            rows.append(
                (
                    *(item.variant, str(item.runs)),
                    f"{self.plan.variant(item.variant).parameters:,}",
                    *(f"{item.loss:.4f}", f"{item.gap:+.4f}", ends),
                    "" if text is None else f"{text.low:+.4f} to {text.high:+.4f}",
                    regret_in_words(item, baseline) if regret else reading_in_words(item, baseline),
                )
            )
        return rows

    def by_rounds(self) -> dict[tuple[str, str], list[RoundsRow]]:
        """For each variant and budget a row for every number of rounds, where there are several."""
        groups: dict[tuple[str, str], dict[int, list[AtRounds]]] = {}
        for measured in self.rounds:
            counts = groups.setdefault((measured.run.variant, measured.run.budget), {})
            counts.setdefault(measured.rounds, []).append(measured)
        return {
            key: [self._rounds_row(counts[count]) for count in sorted(counts)]
            for key, counts in groups.items()
            if len(counts) > 1
        }

    def _rounds_row(self, runs: Sequence[AtRounds]) -> RoundsRow:
        run, rounds = runs[0].run, runs[0].rounds
        spec = self.plan.variant(run.variant).spec
        loss = sum(measured.loss for measured in runs) / len(runs)
        flops = inference_flops(spec, run.config.sequence_length, rounds)
        return RoundsRow(rounds, len(runs), loss, flops)

    def run_rows(self) -> list[tuple[object, ...]]:
        """A row for each run, under `RUN_COLUMNS`."""
        return [
            (
                *(state.run.name, state.run.variant, state.run.budget, state.run.seed, state.state),
                self.plan.variant(state.run.variant).parameters,
                *(state.training_flops or None, state.run.config.tokens),
                *(state.figure, state.seconds or None, state.message or None),
            )
            for state in self.states
        ]


@dataclass(frozen=True)
class RoundsRow:
    """A variant at one number of rounds: mean over its runs, FLOPs of a token without training."""

    rounds: int
    runs: int
    loss: float
    inference_flops: int


RATE_HEADS = ("variant", "trials at", "rate", "trials", "lost at the baseline's rate", "")
RATE_WORDS = "lost is the loss at the baseline's rate less the tuned one, in the trials"
RUN_COLUMNS = (
    *("run", "variant", "budget", "seed", "state", "parameters"),
    *("training_flops", "tokens", "figure", "seconds", "message"),
)


def study_report(folder: str | Path) -> StudyReport:
    """The report of a study's folder, of the runs that are finished. Raises SpecError."""
    plan, study = read_plan(folder), StudyFolder(Path(folder))
    states = tuple(study_states(study, plan))
    evidence = read_evidence(study, plan, states)
    notes: list[str] = [*plan.notes, *evidence.notes]
    over = sum(item.is_over for item in states)
    if over < len(states):
        notes.append(f"{len(states) - over} of {len(states)} runs are not finished")
    compared = [item for item in states if item.run.name not in evidence.foreign]
    rounds = _rounds(study, plan, compared, notes)
    rankings, regrets, unranked = {}, {}, {}
    for budget in dict.fromkeys(run.budget for run in plan.runs):
        runs = [item for item in compared if item.run.budget == budget]
        try:
            rankings[budget] = _standing(study, plan, runs, notes)
        except RinscError as error:
            unranked[budget] = error.message
            notes.append(f"no ranking at {budget}: {error.message}")
        at_one = [item for item in rounds if item.run.budget == budget and item.rounds == 1]
        regret = _regret(study, plan, runs, at_one, notes)
        if regret is not None:
            regrets[budget] = regret
    laws = _laws(plan, compared, notes)
    notes += [item.words for item in states if item.state in ("failed", "diverged")]
    return StudyReport(
        *(plan, states, rankings, laws, tuple(dict.fromkeys(notes)), rounds, regrets, evidence),
        rates=tuned_rates(study, plan),
        unranked=unranked,
    )


def _standing(
    study: StudyFolder, plan: Plan, states: Sequence[RunState], notes: list[str]
) -> Standing:
    """The ranking at one budget; raises DataError where there is none."""
    ranking = rank(_losses(states), plan.baseline)
    pieces: dict[str, list[Pieces]] = {}
    for state in states:
        own = _own_pieces(study, state, notes)
        if own is not None:
            pieces.setdefault(state.run.variant, []).append(own)
    return Standing(ranking, _text_intervals(plan, pieces, pieces.get(plan.baseline, ())))


def _regret(
    study: StudyFolder,
    plan: Plan,
    states: Sequence[RunState],
    at_one: Sequence[AtRounds],
    notes: list[str],
) -> Standing | None:
    """The variants that draw their rounds, at one round, beside the baseline as it is."""
    drawn = [item for item in at_one if is_stochastic(plan.variant(item.run.variant).spec)]
    losses: dict[str, dict[str, float]] = {}
    pieces: dict[str, list[Pieces]] = {}
    baseline = []
    for state in states:
        if state.run.variant == plan.baseline and state.state == "finished":
            sample = own_sample(study, state.run)
            if sample is not None:
                baseline.append(sample)
                loss = loss_of(state.run, sample)
                losses.setdefault(plan.baseline, {})[str(state.run.seed)] = loss
    for item in drawn:
        losses.setdefault(item.run.variant, {})[str(item.run.seed)] = item.loss
        pieces.setdefault(item.run.variant, []).append(item.pieces)
    if not drawn:
        return None
    try:
        ranking = rank(losses, plan.baseline)
    except RinscError as error:
        notes.append(f"nothing on one round at {drawn[0].run.budget}: {error.message}")
        return None
    return Standing(ranking, _text_intervals(plan, pieces, baseline))


def _text_intervals(
    plan: Plan, pieces: Mapping[str, Sequence[Pieces]], baseline: Sequence[Pieces]
) -> dict[str, TextInterval]:
    figure = figure_of(plan)
    return {
        variant: interval
        for variant, runs in pieces.items()
        if variant != plan.baseline
        for interval in [text_interval(runs, baseline, less_is_better=figure.less_is_better)]
        if interval is not None
    }


def _own_pieces(study: StudyFolder, state: RunState, notes: list[str]) -> Pieces | None:
    if state.state != "finished":
        return None
    try:
        return read_pieces(study.run(state.run))
    except RinscError as error:
        notes.append(f"{state.run.words}: its windows are not compared: {error.message}")
        return None


def _rounds(
    study: StudyFolder, plan: Plan, states: Sequence[RunState], notes: list[str]
) -> tuple[AtRounds, ...]:
    def every() -> Iterator[AtRounds]:
        for variant in plan.variants:
            own = [item for item in states if item.run.variant == variant.name]
            yield from measured_rounds(study, variant.spec, own, notes)

    rounds = tuple(every())
    if rounds and len({item.run.name for item in rounds}) == len(rounds):
        command = setting("measure_study_rounds", "rinsc study report --rounds")
        notes.append(f"nothing is known of other rounds: {command} measures them")
    return rounds


def _laws(plan: Plan, states: Sequence[RunState], notes: list[str]) -> LawReport | None:
    curves, short = [], []
    for variant in plan.variants:
        runs = [
            item for item in states if item.run.variant == variant.name and item.state == "finished"
        ]
        x = tuple(float(item.training_flops) for item in runs)
        curve = Curve(variant.name, x, tuple(map(run_loss, runs)))
        if len(runs) and len(curve.budgets) >= LEAST_BUDGETS:
            curves.append(curve)
        else:
            short.append(variant.name)
    if len({run.budget for run in plan.runs}) < LEAST_BUDGETS:
        return None
    if short:
        message = f"no law of {listed(short, 8)}: fewer than {LEAST_BUDGETS} budgets are finished"
        notes.append(message)
    if not curves or plan.baseline in short:
        return None
    try:
        laws = fit_laws(curves, baseline=plan.baseline)
    except RinscError as error:
        notes.append(f"no scaling laws: {error.message}")
        return None
    notes += in_words(laws)
    return laws


def _losses(states: Sequence[RunState]) -> dict[str, dict[str, float]]:
    """By variant and seed, lower is better; a diverged run is nan."""
    losses: dict[str, dict[str, float]] = {}
    for item in states:
        if item.state in ("finished", "diverged"):
            losses.setdefault(item.run.variant, {})[str(item.run.seed)] = run_loss(item)
    return losses
