"""`import rinsc` offers what it says, whatever has been imported before."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rinsc


def test_every_public_name_resolves() -> None:
    for name in rinsc.__all__:
        assert getattr(rinsc, name) is not None


def test_no_submodule_hides_a_function() -> None:
    script = """
import rinsc, rinsc.verification, rinsc.fingerprints, rinsc.spec, rinsc.graph, rinsc.cost
import rinsc.backends.onnx, rinsc.backends.torch
for name in rinsc.__all__:
    if name not in ("__version__",):
        assert callable(getattr(rinsc, name)), name
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'to_tensorflow'"):
        _ = rinsc.to_tensorflow  # type: ignore[attr-defined]


@pytest.mark.parametrize("missing", ["torch", "safetensors", "onnx_ir", "onnxruntime"])
def test_a_missing_library_is_named_with_its_extra(missing: str) -> None:
    script = f"""
import sys
sys.modules["{missing}"] = None
import rinsc
try:
    rinsc.verify(rinsc.model_spec("A^2B", preset="tiny"))
except rinsc.RinscError as error:
    assert error.code == "missing-extra" and "{missing}" in error.message, error
    assert "pip install 'rinsc[" in error.hint
else:
    raise AssertionError("nothing was raised")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
