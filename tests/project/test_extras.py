"""Extras: the table that errors advise from is the table that pip installs from."""

from __future__ import annotations

import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from rinsc.errors import MissingExtraError
from rinsc.extras import EXTRAS, require
from rinsc.installation import MODULES, REQUIREMENT

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_extras_are_those_of_the_project() -> None:
    declared = PROJECT["optional-dependencies"]
    assert set(EXTRAS) == set(declared) - {"dev", "docs"}  # not for users
    for extra, modules in EXTRAS.items():
        assert set(modules) <= _modules(extra), extra


def test_no_extra_but_the_training_ones_brings_torch() -> None:
    with_torch = {name for name in EXTRAS if "torch" in _modules(name)}
    assert with_torch == {"torch", "hf", "train", "eval", "demo"}


def test_what_is_in_no_extra_is_advised_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError) as caught:
        require("wandb")
    assert caught.value.hint == "pip install wandb"


def test_generating_needs_one_extra_without_torch() -> None:
    for extra in ("cpu", "gpu"):
        assert {"onnxruntime", "numpy", "tokenizers"} == _modules(extra)


def test_the_runtimes_are_never_both_required() -> None:
    for extra in PROJECT["optional-dependencies"]:
        assert not {"onnxruntime", "onnxruntime-gpu"} <= _names(extra)


@pytest.mark.parametrize(
    ("wanted", "missing", "extra"),
    [
        (("numpy", "tokenizers"), ("numpy", "tokenizers"), "cpu"),
        (("numpy", "onnx_ir"), ("numpy",), "onnx"),
        (("torch", "safetensors", "numpy", "tokenizers"), ("tokenizers",), "train"),
        (("torch", "onnx_ir"), ("onnx_ir",), "onnx"),
        (("onnxruntime_genai",), ("onnxruntime_genai",), "genai"),
    ],
)
def test_the_lightest_extra_is_advised(
    monkeypatch: pytest.MonkeyPatch, wanted: tuple[str, ...], missing: tuple[str, ...], extra: str
) -> None:
    for module in {*wanted} - {*missing}:
        import_module(module)  # they may need what is about to be hidden
    for module in missing:
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError) as caught:
        require(*wanted)
    assert [problem.code for problem in caught.value.problems] == ["missing-extra"] * len(missing)
    assert {problem.hint for problem in caught.value.problems} == {f"pip install 'rinsc[{extra}]'"}


@pytest.mark.parametrize("code", ["import libgone", "raise OSError('libx.so: gone')", None])
def test_a_library_that_does_not_import_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str | None
) -> None:
    folder = tmp_path / "half_installed"
    folder.mkdir()
    if code is not None:
        (folder / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingExtraError) as caught:
        require("half_installed")
    sys.modules.pop("half_installed", None)
    assert caught.value.code == "broken-library"
    assert "rinsc doctor" in str(caught.value.hint)


def _names(extra: str) -> set[str]:
    """Distributions that an extra requires, those of the extras that it names too."""
    names = set()
    for line in PROJECT["optional-dependencies"][extra]:
        if line.startswith("rinsc["):
            for other in line.partition("[")[2].rstrip("]").split(","):
                names |= _names(other)
        else:
            found = REQUIREMENT.match(line)
            assert found is not None
            names.add(found["name"])
    return names


def _modules(extra: str) -> set[str]:
    return {MODULES.get(name, name.replace("-", "_")) for name in _names(extra)}
