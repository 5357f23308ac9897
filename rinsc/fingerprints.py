"""The fingerprint of a spec: two specs are the same model exactly when it is equal."""

from __future__ import annotations

import hashlib

from rinsc.layers import trace_programs
from rinsc.spec import ModelSpec
from rinsc.syntax import identity

LENGTH = 16  # hexadecimal digits: 64 bits


def fingerprint(spec: ModelSpec) -> str:
    """Hash of the schedule of physical layers up to renaming, and of the traced operations.

    Operations carry every dimension that they depend on, so that a key which changes nothing (a
    rotary base where positions are learned) changes no fingerprint.
    """
    schedule = identity(spec.signature, spec.layers)
    text = repr((schedule, spec.context, trace_programs(spec)))
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]
