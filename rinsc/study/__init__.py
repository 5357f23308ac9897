"""Studies: many runs at one or several budgets, and what can be claimed of them."""

from rinsc.extras import face

_HOMES = ("rinsc.study.laws", "rinsc.study.ranking", "rinsc.study.scaling")

__all__, __getattr__ = face(__name__, __file__, dict.fromkeys(_HOMES, ("numpy", "scipy")))
