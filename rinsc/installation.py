"""What is installed: libraries and their versions, runtimes, providers, devices; and what is wrong.

Everything here works with the base installation alone: a library that is missing is a fact.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from importlib import metadata

from rinsc.__about__ import __version__
from rinsc.backends.onnx.run.providers import PROVIDERS, listed_providers, why_not
from rinsc.errors import Problem
from rinsc.extras import EXTRAS, why_not_importable
from rinsc.scalars import Table

BASE = ""  # the name of no extra

# Distributions that install the same module, the one for the CPU first.
RIVALS = (("onnxruntime", "onnxruntime-gpu"), ("onnxruntime-genai", "onnxruntime-genai-cuda"))
MODULES = {
    "pillow": "PIL",
    "scikit-learn": "sklearn",
    **{gpu: cpu.replace("-", "_") for cpu, gpu in RIVALS},
}

REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)(\[[^\]]*\])?\s*(>=\s*(?P<minimum>[\w.]+))?"
    r"[^;]*(;.*\bextra\s*==\s*['\"](?P<extra>[\w-]+)['\"])?"
)


@dataclass(frozen=True)
class Library:
    """A distribution that rinsc can use; ``version`` None where it is not installed.

    ``broken`` says why it does not import, None where it does or is not there.
    """

    name: str
    version: str | None
    minimum: str | None
    extras: tuple[str, ...]
    broken: str | None = None

    @property
    def is_too_old(self) -> bool:
        old, least = self.version, self.minimum
        return old is not None and least is not None and _release(old) < _release(least)

    def cells(self, extra: str | None) -> tuple[str, str, str, str, str]:
        """A row of a table; ``extra`` is the one to install where the library is missing."""
        extras = ", ".join(name or "base" for name in self.extras) or "-"
        needed = f">={self.minimum}" if self.minimum else "any"
        if self.version is None:
            advice = "" if extra is None else f"pip install 'rinsc[{extra}]'"
            return self.name, "-", needed, extras, advice
        state = "!too old" if self.is_too_old else "ok"
        if self.broken is not None:
            state = "!does not import"
        return self.name, self.version, needed, extras, state


@dataclass(frozen=True)
class Provider:
    """An execution provider of ONNX Runtime; ``reason`` why it does not load, None where it does.

    ``expected`` is True where the installed distribution was made for it.
    """

    name: str
    expected: bool
    reason: str | None


@dataclass(frozen=True)
class TorchDevices:
    """What PyTorch computes on: its build's CUDA version, and the devices that it finds."""

    cuda_build: str | None
    devices: tuple[str, ...]


@dataclass(frozen=True)
class Installation:
    """Every fact at once; ``cores`` are those that this process may use."""

    python: str
    rinsc: str
    cores: int
    libraries: tuple[Library, ...]
    providers: tuple[Provider, ...]
    torch: TorchDevices | None

    @property
    def advised(self) -> dict[str, str]:
        """The extra to install for each library that is missing, unless a rival takes its place."""
        there = {library.name for library in self.libraries if library.version is not None}
        blocked = {name for pair in RIVALS if there & set(pair) for name in pair}
        return {
            library.name: library.extras[0]
            for library in self.libraries
            if library.version is None and library.name not in blocked and any(library.extras)
        }

    def problems(self) -> list[Problem]:
        """What is broken, each with its remedy; empty where all is well."""
        versions = {library.name: library.version for library in self.libraries}
        conflicts = [pair for pair in RIVALS if all(versions.get(name) for name in pair)]
        problems = [_conflict(cpu, gpu) for cpu, gpu in conflicts]
        problems += [_too_old(library) for library in self.libraries if library.is_too_old]
        problems += [_broken(library) for library in self.libraries if library.broken is not None]
        if not problems:  # else they explain it
            problems += [_no_provider(p) for p in self.providers if p.expected and p.reason]
        return problems

    def tables(self) -> list[Table]:
        """A row for each library, and one for each thing here; ``!`` marks what is broken."""
        advised = self.advised
        libraries = [library.cells(advised.get(library.name)) for library in self.libraries]
        here = [("Python", self.python), ("rinsc", self.rinsc), ("cores", str(self.cores))]
        for provider in self.providers:
            status = "loads" if provider.reason is None else f"does not load: {provider.reason}"
            mark = "!" if provider.expected and provider.reason is not None else ""
            here.append((f"ONNX Runtime on {provider.name}", mark + status))
        if self.torch is not None:
            build = self.torch.cuda_build
            status = ", ".join(self.torch.devices) or "no device"
            here.append(("PyTorch", "a CPU build" if build is None else f"CUDA {build}, {status}"))
        heads = ("library", "installed", "needed", "extras", "")
        return [Table(heads, libraries, (0, 1, 2, 3, 4)), Table(("here", ""), here, (0, 1))]


def installation() -> Installation:
    """Look at everything; imports each library that is installed."""
    candidates = [_library(*requirement) for requirement in _requirements_of_extras()]
    libraries = tuple(library for library in candidates if library.extras or library.version)
    working = {library.name for library in libraries if library.version and not library.broken}
    return Installation(
        platform.python_version(),
        __version__,
        _cores(),
        libraries,
        _providers(working) if working & set(RIVALS[0]) else (),
        _torch_devices() if "torch" in working else None,
    )


def _requirements_of_extras() -> list[tuple[str, str | None, tuple[str, ...]]]:
    """Name, minimum version and extras of each library, light extras first."""
    minimums: dict[str, str | None] = {}
    extras: dict[str, list[str]] = {}
    order = [BASE, *EXTRAS]  # an extra for developers is not among them
    for line in _requirements():
        match = REQUIREMENT.match(line)
        extra = BASE if match is None else match["extra"] or BASE
        if match is not None and extra in order:
            minimums.setdefault(match["name"], match["minimum"])
            extras.setdefault(match["name"], []).append(extra)
    for cpu, gpu in RIVALS:  # looked for in any case: they may be there without an extra
        least = minimums.setdefault(cpu, None)
        minimums.setdefault(gpu, least)
    for names in extras.values():
        names.sort(key=order.index)
    shown = [(name, least, tuple(extras.get(name, ()))) for name, least in minimums.items()]
    return sorted(shown, key=lambda one: (*map(order.index, one[2]), len(order)))


def _requirements() -> list[str]:
    """What rinsc was installed to need; without the versions where it only lies in a folder."""
    try:
        return metadata.requires("rinsc") or []
    except metadata.PackageNotFoundError:
        return [
            f"{module.replace('_', '-')}; extra == '{extra}'"
            for extra, modules in EXTRAS.items()
            for module in modules
        ]


def _library(name: str, minimum: str | None, extras: tuple[str, ...]) -> Library:
    try:
        version = metadata.version(name) or "unknown"
    except metadata.PackageNotFoundError:
        return Library(name, None, minimum, extras)
    module = MODULES.get(name, name.replace("-", "_"))
    reason = why_not_importable(module)
    broken = f"there is no module {module}" if reason == "" else reason
    return Library(name, version, minimum, extras, broken)


def _providers(installed: set[str]) -> tuple[Provider, ...]:
    """Each provider that rinsc uses, asked to take a model of one node."""
    providers = []
    for name in PROVIDERS:
        try:
            listed = name in listed_providers()
            reason = why_not(name)
        except Exception as error:  # a runtime too old, or overwritten by another
            listed, reason = False, f"{type(error).__name__}: {error}"
        expected = listed or name == "cpu" or "onnxruntime-gpu" in installed
        providers.append(Provider(name, expected, reason))
    return tuple(providers)


def _torch_devices() -> TorchDevices:
    import torch

    try:
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    except (RuntimeError, AssertionError) as error:  # a driver too old, a device that is taken
        names = [f"CUDA does not start: {str(error).strip().partition(chr(10))[0][:200]}"]
    return TorchDevices(torch.version.cuda, tuple(names))


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, trailing zeros dropped: 1.28.0 equals 1.28."""
    match = re.match(r"\d+(\.\d+)*", version)
    numbers = [int(number) for number in match.group().split(".")] if match else []
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def _conflict(cpu: str, gpu: str) -> Problem:
    message = f"{cpu} and {gpu} are both installed, and overwrite each other"
    hint = f"pip uninstall {cpu} {gpu}, then install one of them"
    if cpu != "onnxruntime":
        return Problem("two-runtimes", message, hint=hint)
    hint += ": rinsc[cpu] or rinsc[gpu]; onnxruntime-genai brings onnxruntime with it"
    return Problem("two-runtimes", message, hint=hint)


def _too_old(library: Library) -> Problem:
    message = f"{library.name} {library.version} is too old: rinsc needs {library.minimum}"
    if library.name in RIVALS[0]:
        message += " (older ones hold a shared weight once for each visit)"
    hint = f"pip install '{library.name}>={library.minimum}'"
    return Problem("library-too-old", message, hint=hint)


def _broken(library: Library) -> Problem:
    message = f"{library.name} {library.version} does not import: {library.broken}"
    hint = f"pip install --force-reinstall '{library.name}=={library.version}'"
    return Problem("broken-library", message, hint=hint)


def _no_provider(provider: Provider) -> Problem:
    message = f"the provider {provider.name} does not load: {provider.reason}"
    hint = "pip install 'rinsc[gpu]' brings CUDA; the driver is the system's; "
    hint += "without a GPU install rinsc[cpu] in place of onnxruntime-gpu"
    return Problem("provider-not-loaded", message, hint=hint)
