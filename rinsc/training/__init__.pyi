"""The names of training for programs, and where each is from."""

from rinsc.training.config import TrainConfig as TrainConfig
from rinsc.training.finished import FinishedRun as FinishedRun
from rinsc.training.opening import finished_run as finished_run
from rinsc.training.opening import trained_run as trained_run
from rinsc.training.result import TrainResult as TrainResult
from rinsc.training.resuming import begin_from_trunk as begin_from_trunk
from rinsc.training.run_folder import RunFolder as RunFolder
from rinsc.training.warm_start import source_of as source_of

__all__: list[str]
