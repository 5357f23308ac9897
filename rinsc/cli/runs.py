"""Another name of `rinsc.verbs.models`."""

from rinsc.verbs.models import *  # noqa: F403
