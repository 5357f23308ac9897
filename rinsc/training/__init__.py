"""Training: the loop, its settings, checkpoints and run folders.

The model knows nothing of training, nor do the data, the metrics and the evaluation.
"""

from rinsc.extras import face

__all__, __getattr__ = face(__name__, __file__)
