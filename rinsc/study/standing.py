"""A ranking with both of its noises, of seeds and of text, and what it allows to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rinsc.study.ranking import Rank, Ranking
from rinsc.study.text_noise import TextInterval


@dataclass(frozen=True)
class Standing:
    """A ranking at one budget, and for each variant the interval of its gap over other texts, where
    the runs have kept their windows."""

    ranking: Ranking
    text: Mapping[str, TextInterval] = field(default_factory=dict)

    @property
    def ranks(self) -> tuple[Rank, ...]:
        """All variants, best first."""
        return self.ranking.ranks

    def facts(self) -> dict[str, object]:
        """The ranking as plain data."""
        ranking = self.ranking
        return {
            "run_sd": ranking.run_sd,
            "freedom": ranking.freedom,
            "critical": ranking.critical,
            "least_gap": ranking.least_gap,
            "best": list(ranking.best),
            "diverged": [list(each) for each in ranking.diverged],
            "ranks": [
                {
                    **vars(item),
                    "reading": item.reading,
                    "text_interval": None if text is None else vars(text),
                }
                for item in ranking.ranks
                for text in [self.text.get(item.variant)]
            ],
        }


def reading_in_words(item: Rank, baseline: str) -> str:
    """What the interval of a variant allows to claim."""
    words = "baseline" if item.variant == baseline else item.reading
    return f"{words}, may be the best" if item.ties_best else words


def regret_in_words(item: Rank, baseline: str) -> str:
    """Whether training with rounds costs a variant that is then run at one round."""
    if item.variant == baseline:
        return "baseline"
    outcomes = {"better": "no regret", "worse": "regret", "not told apart": "undecided"}
    return outcomes[item.reading]


def noise_in_words(standing: Standing) -> str:
    """The noise of a run, and what the study can see."""
    ranking = standing.ranking
    return (
        f"a run's noise is {ranking.run_sd:.4f}, gaps of {ranking.least_gap:.4f} are seen four "
        f"times in five"
    )
