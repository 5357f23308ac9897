"""Corpora: where text comes from, how it becomes tokens, and which tokens a step sees."""

from rinsc.extras import face

__all__, __getattr__ = face(__name__, __file__)
