"""The PyTorch backend: a block graph as readable source, and the module that runs it."""

from rinsc.extras import face

__all__, __getattr__ = face(__name__, __file__)
