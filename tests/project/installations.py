"""Clean environments for the packaging tests: rinsc, its base dependencies, nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


def build(folder: Path) -> Path:
    """Build the sdist, and from that sdist the wheel; returns the wheel."""
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT))
    (wheel,) = folder.glob("*.whl")
    return wheel


def build_editable(folder: Path) -> Path:
    """Build the wheel that an editable installation consists of."""
    code = f"from hatchling.build import build_editable; build_editable({str(folder)!r})"
    run(sys.executable, "-c", code, cwd=ROOT)
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(folder: Path, wheel: Path) -> Path:
    """A new environment with ``wheel`` installed by pip and base dependencies linked in.

    Returns the folder of its commands.
    """
    run(sys.executable, "-m", "venv", "--without-pip", str(folder))
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", str(python), "--quiet")
    run(*pip, "install", "--no-deps", "--no-index", str(wheel))
    _link_dependencies(_site_packages(python))
    return python.parent


def run(*command: str, cwd: Path | None = None) -> str:
    """What ``command`` prints; fails the test with its diagnostics when it fails."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def _site_packages(python: Path) -> Path:
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    return Path(run(str(python), "-c", code).strip())


def _link_dependencies(site_packages: Path) -> None:
    """Link in what the base installation needs, from the environment that runs the tests."""
    for dist in _closure("rinsc"):
        tops = {path.parts[0] for path in dist.files or () if path.parts[0] != ".."}
        for top in tops - {"__pycache__"}:
            link = site_packages / top
            if not link.exists():
                link.symlink_to(Path(str(dist.locate_file(top))))


def _closure(name: str) -> list[Distribution]:
    """The distributions that ``name`` requires without extras, directly or through others."""
    found: dict[str, Distribution] = {}
    waiting = _requirements(distribution(name))
    while waiting:
        required = waiting.pop()
        if required not in found:
            found[required] = distribution(required)
            waiting.extend(_requirements(found[required]))
    return list(found.values())


def _requirements(dist: Distribution) -> list[str]:
    wanted = (Requirement(text) for text in dist.requires or ())
    return [r.name for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
