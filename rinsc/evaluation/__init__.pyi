"""The names of evaluation for programs, and where each is from."""

from rinsc.evaluation.evaluate import Measured as Measured
from rinsc.evaluation.quality import compare_quality as compare_quality
from rinsc.evaluation.reading_runs import read_text as read_text
from rinsc.evaluation.report import EvalReport as EvalReport

__all__: list[str]
