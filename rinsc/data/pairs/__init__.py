"""Pictures with captions: where they come from, decoded once, in the order that a run sees them."""

from rinsc.extras import face

__all__, __getattr__ = face(__name__, __file__)
