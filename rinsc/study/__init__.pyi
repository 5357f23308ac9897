from rinsc.study.laws import LawReport as LawReport
from rinsc.study.laws import fit_laws as fit_laws
from rinsc.study.laws import read_points as read_points
from rinsc.study.ranking import Ranking as Ranking
from rinsc.study.ranking import rank as rank
from rinsc.study.scaling import Curve as Curve
from rinsc.study.scaling import Fit as Fit
from rinsc.study.scaling import Law as Law
from rinsc.study.scaling import fit as fit

__all__: list[str]
