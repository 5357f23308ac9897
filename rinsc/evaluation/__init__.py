"""How good a trained model is: at each number of rounds, against another, in tasks."""

from rinsc.extras import face

__all__, __getattr__ = face(__name__, __file__)
