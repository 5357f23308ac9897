"""The built wheel and the editable install, each in a clean environment and another folder."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from rinsc.__about__ import __version__
from tests.project.installations import ROOT, build, build_editable, environment, run

WHERE = """
import importlib.metadata, json, rinsc
from pathlib import Path
from rinsc import extras as resources
print(json.dumps({
    "package": str(Path(rinsc.__file__).resolve().parent),
    "zoo": str(Path(resources.zoo_dir()).resolve()),
    "grammar": resources.grammar_text(),
    "version": importlib.metadata.version("rinsc"),
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("dist"))


def test_the_wheel_works_from_another_folder(wheel: Path, tmp_path: Path) -> None:
    commands = environment(tmp_path / "env", wheel)
    found = _use(commands, tmp_path)
    assert Path(found["package"]).is_relative_to(tmp_path)
    assert Path(found["zoo"]).is_relative_to(tmp_path)


def test_the_editable_install_works_from_another_folder(tmp_path: Path) -> None:
    commands = environment(tmp_path / "env", build_editable(tmp_path))
    found = _use(commands, tmp_path)
    assert Path(found["package"]) == ROOT / "rinsc"
    assert Path(found["zoo"]) == ROOT / "zoo"


def test_the_wheel_carries_the_data_and_no_tests(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    data = [path for folder in ("grammar", "zoo") for path in (ROOT / folder).rglob("*.*")]
    assert data
    assert {f"rinsc/_data/{path.relative_to(ROOT).as_posix()}" for path in data} <= names
    assert {"rinsc/py.typed", "rinsc/__about__.py"} <= names
    tops = {name.split("/")[0].split("-")[0] for name in names}
    assert tops == {"rinsc", "rinsc_autoload.py"}  # the latter is what PyTorch calls


def _use(commands: Path, folder: Path) -> dict[str, str]:
    """Use the installation from ``folder``; returns where it found its parts."""
    found: dict[str, str] = json.loads(run(str(commands / "python"), "-c", WHERE, cwd=folder))
    assert found["grammar"] == (ROOT / "grammar" / "signature.lark").read_text(encoding="utf-8")
    assert found["version"] == __version__
    here = {path.name for path in (ROOT / "zoo").iterdir()}
    assert {path.name for path in Path(found["zoo"]).iterdir()} == here
    assert "(A^3)B" in run(str(commands / "rinsc"), "check", "(A^3)B", cwd=folder)
    return found
