"""Auto classes know the model in a process that imports transformers alone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.hf.models import ids, pair

GENERATE = """
import sys
from transformers import AutoModelForCausalLM as M
assert not any(name.startswith("rinsc.backends.hf") for name in sys.modules)
import torch
m = M.from_pretrained({folder!r})
made = m.generate(torch.tensor([{prompt}]), max_new_tokens=5, do_sample=False)
print(type(m).__module__, made.tolist())
"""
LIGHT = """
import sys
import {library}
print(sorted(name for name in sys.modules if name.startswith("rinsc")))
"""


def run(code: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model, _ = pair("A^3B")
    model.save_pretrained(tmp_path / "model")
    return tmp_path


def test_generation_in_a_process_that_never_imports_rinsc_itself(folder: Path) -> None:
    model, plain = pair("A^3B")
    prompt = ids(plain.spec, 1, 4)
    code = GENERATE.format(folder=str(folder / "model"), prompt=prompt[0].tolist())
    done = run(code, folder)
    assert done.returncode == 0, done.stderr
    expected = model.generate(prompt, max_new_tokens=5, do_sample=False).tolist()
    assert done.stdout.strip() == f"rinsc.backends.hf.model {expected}"


def test_sabotage_without_the_entry_point_the_model_is_unknown(folder: Path) -> None:
    code = GENERATE.format(folder=str(folder / "model"), prompt=[1, 2])
    done = run(code, folder, TORCH_DEVICE_BACKEND_AUTOLOAD="0")
    assert done.returncode != 0
    assert "does not recognize this architecture" in done.stderr


@pytest.mark.parametrize("library", ["torch", "transformers.models.auto.configuration_auto"])
def test_nothing_heavy_is_imported_beside(library: str, tmp_path: Path) -> None:
    done = run(LIGHT.format(library=library), tmp_path)
    assert done.returncode == 0, done.stderr
    found = done.stdout
    assert "rinsc.backends.hf" not in found
    assert "rinsc.graph" not in found
    assert "rinsc.spec" not in found
    assert "'rinsc'" not in found
    if library == "torch":
        assert "rinsc_autoload" in found


def test_the_list_of_configs_is_loaded_as_ever(tmp_path: Path) -> None:
    """Its loader is its own again, so that its source can be read."""
    code = """
import inspect, torch
from transformers.models.auto import configuration_auto
assert "CONFIG_MAPPING_NAMES" in inspect.getsource(configuration_auto)
assert configuration_auto.__spec__.loader is configuration_auto.__loader__
assert type(configuration_auto.__loader__).__name__ == "SourceFileLoader"
"""
    done = run(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_failure_is_nobodys(tmp_path: Path) -> None:
    """Whatever transformers becomes, importing torch and transformers goes on."""
    package = tmp_path / "transformers" / "models" / "auto"
    package.mkdir(parents=True)
    for place in (package, package.parent, package.parent.parent):
        (place / "__init__.py").write_text("")
    (package / "configuration_auto.py").write_text("CONFIG_MAPPING_NAMES = 3\n")
    code = "import torch, transformers.models.auto.configuration_auto as c; print(c.__file__)"
    done = run(code, tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert str(tmp_path) in done.stdout


def test_another_folder_of_the_name_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / "rinsc").mkdir()
    (tmp_path / "rinsc" / "__init__.py").write_text("")
    done = run("import torch", tmp_path)
    assert done.returncode == 0, done.stderr
