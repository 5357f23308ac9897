"""Studies: many runs at one or several budgets, and what can be claimed of them."""

from rinsc.extras import TO_TRAIN, face

_NEEDS = {
    **dict.fromkeys(
        (f"{__name__}.{module}" for module in ("laws", "page", "ranking", "report", "scaling")),
        ("numpy", "scipy"),
    ),
    "rinsc.study.engines": TO_TRAIN,
    "rinsc.study.rounds": TO_TRAIN,
}

__all__, __getattr__ = face(__name__, __file__, _NEEDS)
