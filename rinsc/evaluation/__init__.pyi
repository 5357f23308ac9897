"""The names of evaluation for programs, and where each is from."""

from rinsc.evaluation.classes import labelled_pictures as labelled_pictures
from rinsc.evaluation.embeddings import Embedder as Embedder
from rinsc.evaluation.evaluate import Measured as Measured
from rinsc.evaluation.pairs import zero_shot as zero_shot
from rinsc.evaluation.quality import compare_quality as compare_quality
from rinsc.evaluation.reading_runs import read_text as read_text
from rinsc.evaluation.report import EvalReport as EvalReport

__all__: list[str]
