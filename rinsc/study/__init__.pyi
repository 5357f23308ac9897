from rinsc.study.engines import run_study as run_study
from rinsc.study.folder import RunState as RunState
from rinsc.study.folder import read_plan as read_plan
from rinsc.study.folder import write_plan as write_plan
from rinsc.study.laws import LawReport as LawReport
from rinsc.study.laws import fit_laws as fit_laws
from rinsc.study.laws import read_points as read_points
from rinsc.study.page import write_report as write_report
from rinsc.study.plan import Plan as Plan
from rinsc.study.plan import plan_study as plan_study
from rinsc.study.ranking import Ranking as Ranking
from rinsc.study.ranking import rank as rank
from rinsc.study.report import StudyReport as StudyReport
from rinsc.study.report import study_report as study_report
from rinsc.study.rounds import measure_study_rounds as measure_study_rounds
from rinsc.study.scaling import Curve as Curve
from rinsc.study.scaling import Fit as Fit
from rinsc.study.scaling import Law as Law
from rinsc.study.scaling import fit as fit

__all__: list[str]
