"""Another name of `rinsc.units`."""

from rinsc.units import *  # noqa: F403
