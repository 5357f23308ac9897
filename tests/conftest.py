"""Settings for every test: hypothesis profiles, and one thread for each worker."""

from __future__ import annotations

import os
import sys
import tempfile

import pytest
from hypothesis import HealthCheck, settings

# Read by torch when a test imports it; workers share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tokenized texts of tests are none of the user's.
os.environ.setdefault("RINSC_DATA", os.path.join(tempfile.gettempdir(), "rinsc-test-data"))
# Nor is the code of exported folders, which transformers copies; each worker has its own.
worker = os.environ.get("PYTEST_XDIST_WORKER", "main")  # which starts with what main has set
os.environ["HF_MODULES_CACHE"] = os.path.join(tempfile.gettempdir(), f"rinsc-modules-{worker}")

settings.register_profile(
    "ci",
    derandomize=True,
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "deep",
    max_examples=1000,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Keep torch to one thread, where collecting the tests has imported it already."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(1)
