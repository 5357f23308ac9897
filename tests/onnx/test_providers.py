"""Providers: what a session asks for, what it gets, and what it says of the difference."""

from __future__ import annotations

import ctypes
import subprocess
import sys
import warnings
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from rinsc.backends.onnx import Session, to_onnx
from rinsc.backends.onnx.run.providers import (
    ONE_NODE,
    PROVIDERS,
    ProviderWarning,
    listed_providers,
    why_not,
)
from rinsc.backends.onnx.write.file import OnnxModel
from rinsc.errors import LoweringError
from tests.onnx.models import lively_model, random_ids, small_spec, torch_logits

SPEC = small_spec()
MODULE = lively_model(SPEC)
MODEL = to_onnx(MODULE)

HAS_CUDA = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
without_cuda = pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")


@pytest.fixture
def gpu_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxruntime-gpu does without CUDA: it lists the provider and falls back in silence.

    The CPU wheel, asked for a provider that it was not built with, makes the same session, with a
    warning of its own.
    """
    names = [PROVIDERS["cuda"], PROVIDERS["cpu"]]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    monkeypatch.setattr(ctypes, "CDLL", lambda _: None)  # the driver is there
    warnings.filterwarnings("ignore", message="Specified provider", category=UserWarning)


def test_the_model_of_one_node_is_a_model() -> None:
    model = onnx.load_from_string(ONE_NODE)
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["Abs"]


def test_the_cpu_loads() -> None:
    assert "cpu" in listed_providers()
    assert why_not("cpu") is None


@pytest.mark.parametrize("provider", [None, "cpu"])
def test_a_session_says_what_it_runs_on(provider: str | None) -> None:
    session = Session(MODEL, provider=provider, threads=1)
    assert PROVIDERS[session.provider] == session._session.get_providers()[0]
    ids = random_ids(SPEC, 2, 7)
    assert abs(session.logits(ids) - torch_logits(MODULE, ids)).max() < 1e-3


@pytest.mark.parametrize(("name", "says"), [("cud", "cuda"), ("CPU", "cpu"), ("", "one of")])
def test_an_unknown_provider(name: str, says: str) -> None:
    with pytest.raises(LoweringError) as caught:
        Session(MODEL, provider=name)
    assert caught.value.code == "unknown-provider"
    assert says in str(caught.value.hint)


@without_cuda
def test_cuda_that_the_runtime_was_not_built_with() -> None:
    with pytest.raises(LoweringError) as caught:
        Session(MODEL, provider="cuda")
    assert caught.value.code == "provider-not-loaded"
    assert "built without it; loaded: cpu" in caught.value.message
    assert "rinsc[gpu]" in str(caught.value.hint)
    assert "rinsc doctor" in str(caught.value.hint)


@without_cuda
def test_nothing_is_said_of_cuda_where_it_is_not_installed() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert Session(MODEL, threads=1).provider == "cpu"


@without_cuda
@pytest.mark.usefixtures("gpu_wheel")
def test_cuda_that_is_listed_and_does_not_load() -> None:
    assert listed_providers() == ["cuda", "cpu"]
    with pytest.raises(LoweringError) as caught:
        Session(MODEL, provider="cuda")
    assert caught.value.code == "provider-not-loaded"
    assert "falls back to the CPU" in caught.value.message
    with pytest.warns(ProviderWarning, match="running on the CPU, since CUDA does not load"):
        session = Session(MODEL, threads=1)
    assert session.provider == "cpu"
    with warnings.catch_warnings():
        warnings.simplefilter("error", ProviderWarning)
        assert Session(MODEL, provider="cpu", threads=1).provider == "cpu"


@without_cuda
@pytest.mark.usefixtures("gpu_wheel")
def test_the_runtime_prints_why_a_library_is_missing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    line = "Failed to load libcublas.so.13: libcublas.so.13: cannot open shared object file"
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print(line))
    assert why_not("cuda") == "libcublas.so.13: cannot open shared object file"
    assert capfd.readouterr() == ("", "")


@without_cuda
@pytest.mark.usefixtures("gpu_wheel")
def test_a_driver_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert str(why_not("cuda")).startswith("there is no NVIDIA driver: ")


@without_cuda
@pytest.mark.usefixtures("gpu_wheel")
def test_a_provider_whose_device_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """With CUDA's libraries and no device the runtime raises instead."""
    whole = onnxruntime.InferenceSession

    def without_device(model: object, options: object, providers: list[str], **more: int) -> object:
        if PROVIDERS["cuda"] in providers:
            raise RuntimeError("CUDA failure 100: no CUDA-capable device is detected\nat x.cc")
        return whole(model, options, providers, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", without_device)
    assert why_not("cuda") == "CUDA failure 100: no CUDA-capable device is detected"
    with pytest.warns(ProviderWarning, match="no CUDA-capable device"):
        assert Session(MODEL, threads=1).provider == "cpu"


@without_cuda
@pytest.mark.usefixtures("gpu_wheel")
def test_a_small_model_gets_cuda_and_this_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rinsc.backends.onnx.run.providers.why_not", lambda _: None)
    with pytest.raises(LoweringError) as caught:
        Session(MODEL, provider="cuda")
    assert caught.value.code == "provider-not-loaded"
    with pytest.warns(ProviderWarning, match="this model"):
        assert Session(MODEL).provider == "cpu"


@without_cuda
def test_on_the_command_line_the_warning_is_a_note(tmp_path: Path) -> None:
    script = f"""
import sys, warnings
import onnxruntime
warnings.filterwarnings("ignore", message="Specified provider")
onnxruntime.get_available_providers = lambda: {list(PROVIDERS.values())}
from rinsc.cli import main
sys.exit(main(["generate", {str(tmp_path / "model.onnx")!r}, "--prompt", "x"]))
"""
    MODEL.save(tmp_path / "model.onnx")
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.stderr.startswith("note: running on the CPU, since CUDA does not load: ")
    assert "error[no-tokenizer]" in done.stderr
    assert "Warning" not in done.stderr


@without_cuda
@pytest.mark.parametrize("operator", ["MatMul", "Add", "Mul"])
def test_bf16_that_the_cpu_cannot_run(operator: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    _bf16_model(operator).save(path)
    for model in (path, _bf16_model(operator)):
        with pytest.raises(LoweringError) as caught:
            Session(model)
        assert caught.value.code == "precision-not-supported"
        assert f"{operator}(" in caught.value.message
        assert onnxruntime.__version__ in caught.value.message
        assert "fp16" in str(caught.value.hint)


def _bf16_model(operator: str) -> OnnxModel:
    """One operator on bf16: y = operator(x, w)."""
    kind, shape = ir.TensorType(ir.DataType.BFLOAT16), ir.Shape([2, 2])
    values = [ir.Value(name=name, type=kind, shape=shape) for name in ("x", "w")]
    ones = np.ones((2, 2), ml_dtypes.bfloat16)
    values[1].const_value = ir.tensor(ones, name="w")
    node = ir.Node("", operator, values)
    node.outputs[0].name, node.outputs[0].type, node.outputs[0].shape = "y", kind, shape
    graph = ir.Graph(
        values[:1],
        node.outputs,
        nodes=[node],
        initializers=values[1:],
        opset_imports={"": 23},
        name="g",
    )
    return OnnxModel(ir.Model(graph, ir_version=10))
